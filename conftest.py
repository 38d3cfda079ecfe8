"""Where the tests run: on the GPU if there is one, else on the CPU with Triton's interpreter.

The flag must stand before anything imports triton, which DeepSpeed and parts of torch do, so it cannot wait for kernels/.
"""

import os
import signal

import numpy as np
import pytest
import torch

from tasks.runner.proxies import without_proxy

pytest_plugins = ["tests.changed", "tests.frozen_garbage", "tests.order", "tests.share"]
os.environ.update(without_proxy())  # the tests' own servers and browser are on this machine
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
# Tensors of tests are small: a second thread takes a fifth more of the processors and gains no time. A stage's own process has
# those of TOKENMILL_THREADS.
torch.set_num_threads(1)

# A shell starts what is to run behind it deaf to Ctrl-C, and what a test starts inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where a Triton kernel can run here."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def interpreted_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of bfloat16 as they should be under Triton's interpreter, which takes their bits for integers (Triton 3.7)."""
    pytest.importorskip("triton")
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def values(x: TensorHandle) -> np.ndarray:
        return (x.data.astype(np.uint32) << 16).view(np.float32) if x.data.dtype == np.uint16 else x.data

    def create_dot(self, a: TensorHandle, b: TensorHandle, d: TensorHandle, *options: object) -> TensorHandle:
        return TensorHandle(values(a) @ values(b) + d.data, d.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)

"""Where the tests run: on the GPU if there is one, else on the CPU with Triton's interpreter.

The flag must stand before anything imports triton, which DeepSpeed and parts of torch do, so it cannot wait for kernels/.
"""

import os
import signal

import pytest
import torch

from tasks.core.proxies import without_proxy

os.environ.update(without_proxy())  # the tests' own servers and browser are on this machine
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# A shell starts what is to run behind it deaf to Ctrl-C, and what a test starts inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where a Triton kernel can run here."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

"""Where the tests run: on the GPU if there is one, else on the CPU with Triton's interpreter.

The flag must stand before anything imports triton, which DeepSpeed and parts of torch do, so it cannot wait for kernels/.
"""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where a Triton kernel can run here."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

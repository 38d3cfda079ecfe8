"""Where these tests run: on a GPU. They also pass on a CPU, which is how they are tried where there is none."""

import os
from collections.abc import Iterator

import pytest
import torch

from tasks.core.process import use_threads


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU; without one the test is skipped, unless TOKENMILL_TEST_DEVICE=cpu asks for a CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("TOKENMILL_TEST_DEVICE") == "cpu":
        return torch.device("cpu")
    pytest.skip("needs a GPU; TOKENMILL_TEST_DEVICE=cpu tries it on a CPU")


@pytest.fixture(autouse=True)
def as_in_a_stage(device: torch.device) -> Iterator[None]:
    """Deterministic algorithms, which some operators of CUDA refuse."""
    use_threads()
    yield
    torch.use_deterministic_algorithms(False)

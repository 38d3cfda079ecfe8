"""For every test: the same examples in every run, however long one takes, one worker, and a `make` that is nobody's child.

Hypothesis draws its examples from the test's own source; `pytest --hypothesis-profile=default` looks at others.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tasks.runner.own import keep_compiled_code

if TYPE_CHECKING:  # a bare machine with a GPU, which runs tests/gpu, has not all that its stages import
    from tests.tiny import Tiny

# Before anything imports numba, here or in the server that tests' stages fork from (tests/forks): numba reads again what it finds
# in the environment when that has changed, forgets what tasks/core/jit.py has told it, and each of the two compiles all anew.
keep_compiled_code()
# before anything imports datasets, which reads it then and else asks a hub again and again: 23 s of waiting for one test
os.environ["HF_HUB_OFFLINE"] = "1"
# and none fails because the machine is busy
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

# `make test` hands these to what it starts; a `make` that a test starts would then speak of the directory that it enters
for handed_on in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
    os.environ.pop(handed_on, None)


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a test asks for more: starting processes takes longer than what these inputs need."""
    monkeypatch.setenv("TOKENMILL_SHARD_WORKERS", "1")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> "Tiny":
    """One for all processes of a run: what xdist's workers share is the folder above their own."""
    from tests.tiny import Tiny

    own = tmp_path_factory.getbasetemp()
    return Tiny((own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own) / "tiny")


@pytest.fixture(scope="module")
def on_cpu() -> Iterator[None]:
    """Processes that a module's tests start find no GPU: ranks would need one each, and the bits are those of a CPU. This
    process keeps those that it has found."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CUDA_VISIBLE_DEVICES", "")
        yield

"""For every test: the same examples in every run, one worker, and a `make` that is nobody's child.

Hypothesis draws its examples from the test's own source; `pytest --hypothesis-profile=default` looks at others.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")

# `make test` hands these to what it starts; a `make` that a test starts would then speak of the directory that it enters
for handed_on in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
    os.environ.pop(handed_on, None)


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a test asks for more: starting processes takes longer than what these inputs need."""
    monkeypatch.setenv("TOKENMILL_SHARD_WORKERS", "1")


@pytest.fixture(scope="module")
def on_cpu() -> Iterator[None]:
    """Processes that a module's tests start find no GPU: ranks would need one each, and the bits are those of a CPU. This
    process keeps those that it has found."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CUDA_VISIBLE_DEVICES", "")
        yield

"""For every test: the same examples in every run, and one worker.

Hypothesis draws its examples from the test's own source; `pytest --hypothesis-profile=default` looks at others.
"""

import pytest
from hypothesis import settings

settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a test asks for more: starting processes takes longer than what these inputs need."""
    monkeypatch.setenv("TOKENMILL_SHARD_WORKERS", "1")

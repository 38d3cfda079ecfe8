"""For the tests of what stages record: a busy machine has all the time that it needs for it."""

import pytest

from tests.processes import PATIENCE


@pytest.fixture(autouse=True)
def patient_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of a store that never takes a run sets what it waits for it."""
    monkeypatch.setenv("TOKENMILL_TRACKING_SECONDS", str(PATIENCE))

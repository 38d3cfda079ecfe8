"""What a data stage may fill."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lm.config import ConfigError
from lm.memory_limits import memory_limits
from tasks.core.process import LEAST_BUDGET, LIBRARIES, memory_budget
from tests.control_groups import make_control_groups

MIB = 1 << 20


@pytest.mark.parametrize(("limit", "budget"), [(768, 256), (1280, 512), (300, 64)])
def test_a_limit_is_shared_with_the_libraries(limit: int, budget: int) -> None:
    program = "from tasks.core.process import memory_budget; print(memory_budget())"
    found = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit * MIB, limit * MIB)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (LIBRARIES, LEAST_BUDGET) == (256 * MIB, 64 * MIB)
    assert int(found.stdout) == budget * MIB


def test_what_is_asked_for_goes_before_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_MEMORY", "17")
    assert memory_budget() == 17 * MIB
    for text in ("0", "-1", "4G"):
        monkeypatch.setenv("TOKENMILL_MEMORY", text)
        with pytest.raises(ConfigError, match="TOKENMILL_MEMORY: must be a whole number of MiB"):
            memory_budget()


def test_the_limit_of_a_control_group_is_shared_with_the_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_control_groups(tmp_path, "cgroup", "/pod/stage", {"/pod": 768 * MIB})
    monkeypatch.setattr("tasks.core.process.memory_limits", lambda: memory_limits(tmp_path))
    assert memory_budget() == 256 * MIB

"""kill -9 of a training stage at three random steps each: the resumed output has the digest of a whole run."""

import random
import shutil
from pathlib import Path

import pytest

from tests.processes import wait_for
from tests.project import TINY, digest, run_stage, start_stage
from tests.tiny import Tiny

KILLED = ["pretrain", "sft", "preference", "reward", "rl", "distill"]
PREFERENCE = {**TINY["preference"], "steps": 20, "batch": 4, "pairs": [{"name": "files"}]}

REWARD = {**TINY["reward"], "steps": 20, "batch": 4, "rounds": 4, "pairs": [{"name": "files"}]}


@pytest.fixture(scope="module")
def project(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with every stage before distill made."""
    folder = tiny.project(
        tmp_path_factory.mktemp("project"), "rl", {**TINY, "preference": PREFERENCE, "reward": REWARD}
    )
    pair = '{"prompt": "%s+1=", "chosen": "%s", "rejected": "none"}\n'
    (folder / "data/preferences/a.jsonl").write_text("".join(pair % (n, n + 1) for n in range(30)))
    return folder


def curve_points(project: Path, stage: str) -> int:
    """Points that the stage has logged so far."""
    found = (project / ".scratch" / stage).glob("*/curves.jsonl")  # not deeper: folders there come and go
    return sum(path.read_bytes().count(b"\n") for path in found)


def kill_at(project: Path, stage: str, step: int) -> None:
    """Start the stage, checkpointing after every step, and SIGKILL it once it has logged `step` points."""
    process = start_stage(project, stage, TOKENMILL_CHECKPOINT_SECONDS="0")
    wait_for(lambda: curve_points(project, stage) >= step, process)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("stage", KILLED)
def test_killed_and_resumed_equals_whole(project: Path, stage: str) -> None:
    run_stage(project, stage)
    whole = digest(project / "data" / stage)
    shutil.rmtree(project / "data" / stage)
    for step in sorted(random.Random(stage).sample(range(2, 19), 3)):
        kill_at(project, stage, step)
        assert not (project / "data" / stage).exists(), "a killed stage left an output"
    run_stage(project, stage)
    assert digest(project / "data" / stage) == whole
    assert not list((project / ".scratch" / stage).rglob("step-*")), "a finished stage left its checkpoint"

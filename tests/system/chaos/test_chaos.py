"""Whatever breaks, whenever: the store is consistent, the next run completes, the bytes are the same.

Twelve faults, one of each kind but two; TOKENMILL_CHAOS=all (`make chaos`) has all of them.
"""

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small_disk import may_mount
from tests.system.chaos.faults import Point, clock_jumps, full_disk, points
from tests.system.chaos.world import World

SHORT = [
    *(
        "kill_stage-rl",
        "kill_dvc-dedup",
        "kill_flow-pretrain",
        "stop_flow-sft",
        "kill_prefect-filter",
        "tear_lock-curriculum",
    ),
    *("tear_output-dedup", "tear_scratch-pretrain", "two_at_once-dedup", "edit_code-filter", "clock_jumps-rl"),
    "full_disk-tokenize",
]
EVERY = {point.name: point for point in points()}
CHOSEN = list(EVERY) if os.environ.get("TOKENMILL_CHAOS") == "all" else SHORT
DISK = "600m"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, bool]]:
    """A folder, and whether it is a small file system of its own, which may be filled up."""
    folder = tmp_path_factory.mktemp("chaos")
    with may_mount(folder, DISK) as mounted:
        yield folder, mounted


@pytest.fixture(scope="module")
def world(disk: tuple[Path, bool], server: dict[str, str]) -> World:
    """The project, with a Prefect server that outlives every fault but its own."""
    return World(disk[0] / "project", server["PREFECT_API_URL"])


@pytest.mark.parametrize("name", CHOSEN)
def test_a_fault_leaves_no_trace(world: World, disk: tuple[Path, bool], name: str) -> None:
    point: Point = EVERY[name]
    if point.fault is full_disk and not disk[1]:
        pytest.skip("may not mount a file system to fill")
    if point.fault is clock_jumps and not shutil.which("cc"):
        pytest.skip("no C compiler to build the clock with")
    point.fault(world, point.stage, random.Random(name))
    world.check()


def test_there_are_sixty_points() -> None:
    assert len(EVERY) >= 60 and len(SHORT) == 12 and set(SHORT) <= set(EVERY)
    assert {point.fault for point in EVERY.values()} - {EVERY[name].fault for name in SHORT} == {
        EVERY["kill_mlflow-sft"].fault,
        EVERY["edit_params-sft"].fault,
    }

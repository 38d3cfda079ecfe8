"""Where a stage runs: with an agent of the pool that its `meta` asks for, or on this machine."""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from flows.settings import POOLS
from flows.stage.process import StageResult, run_stage
from flows.staleness.plan import PlannedStage
from tasks.runner.locks import takes_a_slot

NO_AGENT = os.EX_TEMPFAIL  # what flows.agents.dispatch exits with when nobody could do the stage


def pool_of(meta: dict[str, Any]) -> str | None:
    """The pool that a stage is sent to: its `pool`, or `gpu` when it asks for `gpus`, if that is one of TOKENMILL_POOLS
    (names with commas between them). None: the stage runs on this machine."""
    name = meta.get("pool") or ("gpu" if meta.get("gpus") else None)
    used = [pool.strip() for pool in POOLS.read().split(",")]
    return name if name in used else None


def run_anywhere(
    root: Path,
    planned: PlannedStage,
    force: bool,
    slots: threading.Semaphore,
    say: Callable[[str], None],
    extra: dict[str, str],
) -> StageResult:
    """Bring one stage up to date: by an agent if one of its pool is alive, else here once there is a slot, where it takes one.

    A stage that is sent holds no slot, and is a process as one that runs here is: what ends the one ends the other.
    """
    if pool := pool_of(planned.meta):
        command = [sys.executable, "-m", "flows.agents.dispatch", pool, planned.address]
        ended = run_stage(root, planned.address, force, say, extra, command)
        if ended.code != NO_AGENT:
            return ended
    with slots if takes_a_slot(planned.meta) else nullcontext():
        return run_stage(root, planned.address, force, say, extra)

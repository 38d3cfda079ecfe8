"""The GPUs that a stage has to itself: as many as it needs of those that are free, held by locks of the kernel."""

import fcntl
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tasks.runner import own
from tasks.runner.graph import Entry
from tasks.runner.own import open_lock
from tasks.runner.say import say

VISIBLE = "CUDA_VISIBLE_DEVICES"
LOOK_AGAIN_SECONDS = 0.2


def present() -> int:
    """How many GPUs this machine has; asking torch would take seconds."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def visible_devices(count: int, visible: str | None) -> list[str]:
    """The names of the devices that a process may use, of `count` that there are: those that CUDA_VISIBLE_DEVICES names, in its
    order, else all."""
    if not count:
        return []
    names = [str(index) for index in range(count)] if visible is None else visible.replace(" ", "").split(",")
    return [name for name in names if name not in ("", "-1")]


def works_on_a_device(meta: dict[str, Any]) -> bool:
    """Whether a stage of this `meta` asks for a GPU and there is one."""
    return int(meta.get("gpus", 0)) > 0 and bool(visible_devices(present(), os.environ.get(VISIBLE)))


@contextmanager
def device_locks(entry: Entry, ranks: int = 1, launched: bool = False) -> Iterator[None]:
    """Hold as many of the devices that this process may see as `meta.gpus` asks for, and one a rank, where there are any: the
    first that are free, once there are as many. CUDA then finds these alone, in this process and in those that it starts. The
    locks are shared by whatever this user runs on this machine, in any project.

    launched: torchrun has started the ranks, and each takes the device of its own number. So the first devices are waited for,
    whichever are free.
    """
    names = _usable(visible_devices(present(), os.environ.get(VISIBLE)))
    wanted = min(len(names), max(int(entry.meta.get("gpus", 0)), ranks if ranks > 1 else 0))
    if not wanted:
        yield
        return
    held = _when_free(names[:wanted] if launched else names, wanted, own.device_locks(), entry.address)
    os.environ[VISIBLE] = ",".join(held)
    say(f"{entry.address}: on GPU {', '.join(held)} of {len(names)}")
    try:
        yield
    finally:
        for file in held.values():
            file.close()


def _usable(names: list[str]) -> list[str]:
    """Names of as many devices as CUDA finds, where torch is there to be asked: a container may show devices that it lets
    nobody use, and torch may be one without CUDA."""
    torch = sys.modules.get("torch") if names else None
    return names[: torch.cuda.device_count()] if torch else names


def _when_free(names: Sequence[str], wanted: int, folder: Path, address: str) -> dict[str, TextIO]:
    """The locks of so many of the devices, by their names; says so where it has to wait."""
    waits = False
    while not (held := lock_devices(names, wanted, folder)):
        if not waits:
            what = "a GPU" if wanted == 1 else f"{wanted} GPUs"
            say(f"{address}: waiting for {what} of {', '.join(names)}: other stages hold the rest")
            waits = True
        time.sleep(LOOK_AGAIN_SECONDS)
    return held


def lock_devices(names: Sequence[str], wanted: int, folder: Path) -> dict[str, TextIO]:
    """The locks of the first `wanted` devices that nobody holds, in the order of the names; none where fewer are free, since
    two that hold some and wait for more could wait for each other."""
    # held for a moment: of two at once each could find half of the devices, and neither enough
    with os.fdopen(open_lock(folder / "choice"), "w") as choice:
        fcntl.flock(choice, fcntl.LOCK_EX)
        held: dict[str, TextIO] = {}
        for name in names:
            file: TextIO = os.fdopen(open_lock(folder / f"device-{name.replace('/', '-')}"), "w")  # MIG's have slashes
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            held[name] = file
            if len(held) == wanted:
                return held
        for taken in held.values():
            taken.close()
        return {}

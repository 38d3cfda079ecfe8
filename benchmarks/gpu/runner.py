"""Items one after the other, as long as the seconds last, each in a process of its own that is ended at its most.

An item is a fork of this process, which has imported everything and never touched CUDA: no item pays for imports, and none is
hurt by the crash of another.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.gpu.check import Check

ERRORS = "errors.txt"
RAISED = 1  # exit code of an item whose error is said
# A machine without a GPU is in no hurry, and may be busy.
TINY_FACTOR = 10


@dataclass(frozen=True)
class Item:
    """least: seconds that must be left for it to be worth beginning with; most: that it may take."""

    work: Callable[[Check], None]
    least: float
    most: float

    @property
    def name(self) -> str:
        return self.work.__name__


def run(items: Iterable[Item], check: Check, budget: float) -> None:
    """Each item in its order; what does not fit into the budget of seconds is skipped, and says so."""
    deadline = time.monotonic() + budget
    for item in items:
        here, left = check.of(item.name), deadline - time.monotonic()
        print(f"== {item.name} ({left:.0f} s left)", flush=True)
        if left < (1 if check.tiny else item.least):
            here.say("skipped", f"{left:.0f} s left, it asks for {item.least:g}")
            continue
        began = time.monotonic()
        code = exit_code(start(item, here), min(item.most * (TINY_FACTOR if check.tiny else 1), left))
        if code is None:
            here.say("stopped", f"after {time.monotonic() - began:.0f} s")
        elif code not in (0, RAISED):
            here.say("error", f"the process ended with {code}")
        here.say("seconds", time.monotonic() - began, "s")


def start(item: Item, check: Check) -> int:
    """The id of the process that does the item; what it raises is said in a row and written in full beside the rows."""
    child = os.fork()
    if child:
        return child
    os.setsid()  # what it starts in turn is ended with it
    code = 0
    try:
        item.work(check)
    except BaseException as error:
        check.say("error", f"{type(error).__name__}: {str(error)[:400]}")
        with (check.out / ERRORS).open("a") as file:
            file.write(f"== {item.name}\n{traceback.format_exc()}\n")
        code = RAISED
    sys.stdout.flush()
    os._exit(code)


def exit_code(child: int, seconds: float) -> int | None:
    """The exit code of a process that leads a group, negative for a signal; None where the group was killed, after so many
    seconds."""
    until = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.05)

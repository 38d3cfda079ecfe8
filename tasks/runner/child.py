"""A stage as a child process: which code it has read, when it must read it anew, and its end with its parent."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil

from tasks.core.process import Stopped, at_parents_end

# Another signal than SIGTERM: whoever ends a group of processes ends a stage and its parent at once, and asked only once.
PARENT_ENDED = signal.SIGUSR1
TICK_NS = 10_000_000  # what the kernel's clocks of processes and of files may be late by
LOADED = "TOKENMILL_LOADED"


def process_start_ns() -> int:
    """When this process began, in ns of time.time_ns; not later, and at most 20 ms earlier."""
    if sys.platform != "linux":
        return int(psutil.Process().create_time() * 1e9) - TICK_NS
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    age = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    return time.time_ns() - age - TICK_NS


def load_again() -> None:
    """Begin this process anew, by its command. It does not return."""
    os.environ[LOADED] = str(time.time_ns() - TICK_NS)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def loaded_from() -> int:
    """Since when this process reads its code, in ns: since load_again where that was called, else since it began."""
    return int(os.environ.pop(LOADED, 0)) or process_start_ns()


def die_with_parent() -> None:
    """End with the parent: DVC does not pass signals on, and orphans would go on writing."""
    at_parents_end(PARENT_ENDED)
    if sys.platform == "linux" and os.getppid() == 1 and os.environ.get("DVC_STAGE"):
        if b"dvc" not in Path("/proc/1/cmdline").read_bytes():
            raise Stopped  # the parent ended before the kernel was asked; in a container DVC itself may be process 1

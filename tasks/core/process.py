"""The process that a stage runs in: the cores, threads and memory it may use, and the signal at its parent's end."""

import ctypes
import gc
import importlib
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lm.memory_limits import memory_limits
from lm.settings import MEMORY, THREADS

SET_PDEATHSIG = 1  # of prctl
MMAP_THRESHOLD, ARENA_MAX = -3, -8  # of mallopt
# Bytes that an interpreter, its libraries and the stacks of their threads take before a stage holds its first row.
LIBRARIES = 256 << 20
LEAST_BUDGET = 64 << 20


class Stopped(Exception):
    """The stage was asked to stop, has saved a checkpoint, and continues from it next time."""


def peak_memory() -> int:
    """The most bytes that this process had in memory since it began its program.

    On Linux VmHWM: ru_maxrss begins at what the process that started this one had, which a fork hands down.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes


def cores() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def threads() -> int:
    """Number of threads to use: TOKENMILL_THREADS, else the cores."""
    return THREADS.read() or cores()


def memory_budget() -> int:
    """Bytes that a data stage may fill: TOKENMILL_MEMORY (a number of MiB), else half of what the machine, its container and
    this process's limits leave beside the libraries. What is larger goes to disk; how much that is changes no result."""
    if given := MEMORY.read():
        return given << 20
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(LEAST_BUDGET, (min([machine, *memory_limits(), *_limits()]) - LIBRARIES) // 2)


def _limits() -> list[int]:
    """Bytes of memory that this process is limited to by `ulimit -v` and `ulimit -d`, where it is."""
    found = [resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return [limit for limit in found if limit != resource.RLIM_INFINITY]


def is_limited() -> bool:
    """Whether `ulimit -v` or `ulimit -d` bounds the memory of this process."""
    return bool(_limits())


def keep_to_limits() -> None:
    """Under a limit nothing is kept for later: Arrow takes memory from the system (its own allocator reserves 1 GiB at once,
    which counts) and starts few threads (the stack of each counts, 8 MiB), and freed blocks go back to the system."""
    if not is_limited():
        return
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())
    pa.set_io_thread_count(1)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # glibc: once set, the threshold no longer grows with what is freed
            libc.mallopt(MMAP_THRESHOLD, 1 << 20)
            libc.mallopt(ARENA_MAX, 1)


def use_threads(deterministic: bool = True) -> None:
    """Threads change the order of sums, so the number is fixed for a machine: TOKENMILL_THREADS, else its cores. deterministic:
    whether torch is held to algorithms that give the same bits each time.

    cuBLAS is reproducible only with a workspace of a fixed size, and torch refuses to use it without. MKL promises the same
    bits from run to run only where it is asked for static schedules and sizes of caches that it does not look up: else it may
    divide a product otherwise when a machine is busy. Products of a laptop's model keep their bits by it and take as long.
    Of the compiler, which
    takes 1.0 s to import, Decoder.compile_blocks tells where it is used.
    """
    if "torch" in sys.modules:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ.setdefault("MKL_CBWR", "AUTO")  # it is read by the first product
        torch = sys.modules["torch"]
        torch.set_num_threads(threads())
        torch.set_deterministic_debug_mode("error" if deterministic else "default")
        # else torch fills whatever it allocates, to show who reads memory that was never written
        torch.utils.deterministic.fill_uninitialized_memory = False


@contextmanager
def no_collection() -> Iterator[None]:
    """Context for imports, without garbage collection: they make objects that stay, which the collector would walk again and
    again; beside torch that is 0.9 of the 3.3 s that mlflow takes."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def at_parents_end(signum: int) -> None:
    """Ask the kernel for a signal when the parent ends, where the kernel can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PDEATHSIG, signum)


def join_audit() -> None:
    """Have this process of an audited stage write down what it touches, too. By its name: what audits a stage is no part of
    what it depends on."""
    if "TOKENMILL_AUDIT_TRACES" in os.environ:
        importlib.import_module("tasks.audit.traces").join_audit()

"""The process a stage runs in: its locks, its threads, its memory, and its end with its parent."""

import ctypes
import fcntl
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from lm.config import ConfigError
from lm.memory_limits import memory_limits
from tasks.core import own
from tasks.core.graph import Entry
from tasks.core.own import open_lock

LOCKS = Path(".scratch/locks")
SET_PDEATHSIG = 1  # of prctl
# Another signal than SIGTERM: whoever ends a group of processes ends a stage and its parent at once, and asked only once.
PARENT_ENDED = signal.SIGUSR1
MMAP_THRESHOLD, ARENA_MAX = -3, -8  # of mallopt
# Bytes that an interpreter, its libraries and the stacks of their threads take before a stage holds its first row.
LIBRARIES = 256 << 20
LEAST_BUDGET = 64 << 20
TICK_NS = 10_000_000  # what the kernel's clocks of processes and of files may be late by
LOADED = "TOKENMILL_LOADED"


class Stopped(Exception):
    """The stage was asked to stop, has saved a checkpoint, and continues from it next time."""


def peak_memory() -> int:
    """Bytes; Linux counts in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform == "linux" else 1)


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def threads() -> int:
    """TOKENMILL_THREADS, else the cores."""
    return int(os.environ.get("TOKENMILL_THREADS", cores()))


def memory_budget() -> int:
    """Bytes that a data stage may fill: TOKENMILL_MEMORY (a number of MiB), else half of what the machine, its container and
    this process's limits leave beside the libraries. What is larger goes to disk; how much that is changes no result."""
    text = os.environ.get("TOKENMILL_MEMORY")
    if text is not None:
        if not text.isdecimal() or not int(text):
            raise ConfigError(f"TOKENMILL_MEMORY: must be a whole number of MiB (got {text!r})")
        return int(text) << 20
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

    cuBLAS is reproducible only with a workspace of a fixed size, and torch refuses to use it without.
    """
    if "torch" in sys.modules:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch = sys.modules["torch"]
        torch.set_num_threads(threads())
        torch.use_deterministic_algorithms(deterministic)
        # else torch fills whatever it allocates, to show who reads memory that was never written
        torch.utils.deterministic.fill_uninitialized_memory = False


@contextmanager
def no_collection() -> Iterator[None]:
    """Around imports: they make objects that stay, which the collector would walk again and again; beside torch that is 0.9 of
    the 3.3 s that mlflow takes."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def began() -> int:
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
    return int(os.environ.pop(LOADED, 0)) or began()


def die_with_parent() -> None:
    """End with the parent: DVC does not pass signals on, and orphans would go on writing."""
    at_parents_end(PARENT_ENDED)
    if sys.platform == "linux" and os.getppid() == 1 and os.environ.get("DVC_STAGE"):
        if b"dvc" not in Path("/proc/1/cmdline").read_bytes():
            raise Stopped  # the parent ended before the kernel was asked; in a container DVC itself may be process 1


def at_parents_end(signum: int) -> None:
    """Ask the kernel for a signal when the parent ends, where the kernel can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PDEATHSIG, signum)


@contextmanager
def lock(name: str, folder: Path = LOCKS) -> Iterator[None]:
    """Hold the lock of this name; the kernel lets it go when the process ends, however it ends. Raises ConfigError for what is
    no lock."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / name
    with os.fdopen(open_lock(path), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name}: waiting for another process that holds {path}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def stages_at_once() -> int:
    """TOKENMILL_WORKERS, else one on up to two cores (a stage uses them all), two above."""
    text = os.environ.get("TOKENMILL_WORKERS", "1" if cores() <= 2 else "2")
    if not text.isdecimal() or not int(text):
        raise ConfigError(f"TOKENMILL_WORKERS: must be a whole number of at least 1 (got {text!r})")
    return int(text)


@contextmanager
def slot() -> Iterator[None]:
    """Hold one of as many places as stages may run at once, over all that share TOKENMILL_LOCKS: a project and its variants."""
    folder = Path(os.environ.get("TOKENMILL_LOCKS", LOCKS))
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        places = [folder / f"slot-{number}" for number in range(stages_at_once())]
        files = [held.enter_context(os.fdopen(open_lock(place), "w")) for place in places]
        for file in files:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
        else:
            print("waiting for another stage to end (TOKENMILL_WORKERS says how many may run at once)", flush=True)
            fcntl.flock(files[os.getpid() % len(files)], fcntl.LOCK_EX)
        yield


@contextmanager
def device_locks(entry: Entry, ranks: int = 1) -> Iterator[None]:
    """Hold as many of the devices that this process may see as `meta.gpus` asks for, and one a rank, where there are any. They
    are shared by whatever this user runs on this machine, in any project."""
    present = len(list(Path("/dev").glob("nvidia[0-9]*")))  # asking torch would take seconds
    with ExitStack() as held:
        for device in devices(
            max(int(entry.meta.get("gpus", 0)), ranks if ranks > 1 else 0),
            present,
            os.environ.get("CUDA_VISIBLE_DEVICES"),
        ):
            held.enter_context(lock(f"device-{device}", own.device_locks()))
        yield


def devices(wanted: int, present: int, visible: str | None) -> list[str]:
    """The first `wanted` devices of CUDA_VISIBLE_DEVICES, else of those present; sorted, so that no two stages, each
    holding one, wait for each other."""
    names = [str(index) for index in range(present)] if visible is None else visible.replace(" ", "").split(",")
    return sorted([name for name in names if name not in ("", "-1")][:wanted]) if present else []

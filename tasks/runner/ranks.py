"""The ranks of a training stage: processes that run the same stage together, this one being the first of them.

TOKENMILL_RANKS=4 has the stage start the other three itself, on this machine; under torchrun, which may span machines, they are
there already.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from lm.config import Config, ConfigError
from lm.settings import OFFLOAD, PARALLEL
from tasks.core.log import Log
from tasks.core.process import at_parents_end
from tasks.runner.settings import RANKS

if TYPE_CHECKING:
    from torch.distributed import Store

# Under torchrun the others wait while rank 0 waits for another stage's lock; else all are there when they meet.
LONG, SHORT = timedelta(days=7), timedelta(minutes=1)
SECONDS_TO_END = 60


class Ranks:
    """rank: which this process is; size: how many there are, 1 for a stage that does not train; launched: by torchrun.

    Raises ConfigError for a number that is none, and for more ranks than this machine has GPUs, where it has any.
    """

    def __init__(self, address: str, config: Config) -> None:
        self.rank, self.launched = int(os.environ.get("RANK", "0")), "WORLD_SIZE" in os.environ
        ranks = replace(RANKS, name="WORLD_SIZE") if self.launched else RANKS
        self.size, self._address = ranks.read(), address
        if not hasattr(config, "shards"):
            if self.launched and self.size > 1:
                raise ConfigError(f"{address}: works in one process: start it without torchrun")
            self.size = 1
        self._here = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        if self.size > 1:
            import torch

            if few := too_few(self._here, torch.cuda.device_count()):
                raise ConfigError(f"{ranks.name}: {few[0]}; {few[1]}")

    @property
    def gpus(self) -> int:
        """Number of GPUs that the stage's processes on this machine use, where it has them."""
        return self._here

    @property
    def spread(self) -> str:
        """How the stage is spread over ranks, as far as it decides bits: those that train exactly count for one."""
        kind = PARALLEL.read()
        if kind == "exact" or self.size == 1:
            return "exact"
        offloaded = ", offloaded" if OFFLOAD.read() == "1" else ""
        return f"{kind} on {self.size} ranks{offloaded}"

    @contextmanager
    def lead(self, folder: Path, view: Path) -> Iterator[None]:
        """Have all ranks there while rank 0 works on the view. Raises RuntimeError that says which of them has ended."""
        if self.size == 1:
            yield
            return
        meeting = folder / f"ranks-{os.getpid()}"
        others = [] if self.launched else [self._start(rank, meeting) for rank in range(1, self.size)]
        try:
            self._join(None if self.launched else meeting, others).set("view", str(view.resolve()))
            yield
            for rank, other in enumerate(others, 1):
                if other.wait(SECONDS_TO_END):
                    raise RuntimeError(f"{self._address}: rank {rank} ended with {other.returncode}")
            _leave()
        except RuntimeError as error:
            ended = [(rank, code) for rank, other in enumerate(others, 1) if (code := _code(other)) is not None]
            if ended:
                raise RuntimeError(
                    f"{self._address}: " + ", ".join(f"rank {rank} ended with {code}" for rank, code in ended)
                ) from error
            raise
        finally:
            for other in others:
                other.kill()
                other.wait()
            meeting.unlink(missing_ok=True)

    @contextmanager
    def follow(self) -> Iterator[Path]:
        """The view that rank 0 works on, for another rank. It ends when rank 0 does, and not by a signal to stop."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)  # rank 0 decides after which step all stop
        meeting = os.environ.get("TOKENMILL_MEETING")
        if meeting:
            at_parents_end(signal.SIGKILL)
            if os.getppid() != int(os.environ["TOKENMILL_PARENT"]):  # it ended before the kernel was asked
                sys.exit(1)
        store = self._join(Path(meeting) if meeting else None)
        yield Path(store.get("view").decode())
        _leave()

    def _start(self, rank: int, meeting: Path) -> subprocess.Popen[bytes]:
        name, _, item = self._address.partition("@")
        environment: dict[str, object] = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.size}
        environment |= {"TOKENMILL_MEETING": meeting.resolve(), "TOKENMILL_PARENT": os.getpid()}
        return subprocess.Popen(
            [sys.executable, "-m", "tasks.runner", name, *([item] if item else [])],
            env=os.environ | {key: str(value) for key, value in environment.items()},
        )

    def _join(self, meeting: Path | None, others: Sequence[subprocess.Popen[bytes]] = ()) -> "Store":
        """Meet the others in a file, or where torchrun says; returns the store all see. Raises RuntimeError when one of those
        that this process has started is no more."""
        import torch
        import torch.distributed as dist

        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        os.environ.update(RANK=str(self.rank), WORLD_SIZE=str(self.size))  # for DeepSpeed
        os.environ.setdefault("LOCAL_RANK", str(self.rank))
        if meeting:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
            store: Store = dist.FileStore(str(meeting), self.size)
            store.set(f"here-{self.rank}", "")
        else:
            store, _, _ = next(dist.rendezvous("env://"))
        # torch would wait for one that was killed as it started
        while others and not store.check([f"here-{rank}" for rank in range(self.size)]):
            if any(other.poll() is not None for other in others):
                raise RuntimeError("a rank has ended before all have met")
            time.sleep(0.02)
        store.set_timeout(SHORT if meeting else LONG)
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size)
        return store


def too_few(ranks: int, gpus: int) -> tuple[str, str] | None:
    """(reason, what to do) where a machine has GPUs and fewer than ranks: NCCL takes no two of them on one device."""
    if not 0 < gpus < ranks:
        return None
    there = f"{gpus} GPU{'s' if gpus > 1 else ''}"
    return (
        f"{ranks} ranks need a GPU each, and this machine shows {there}",
        f"ask for {gpus}, or set CUDA_VISIBLE_DEVICES to nothing to train on the CPU",
    )


class Trained(Exception):
    """A rank but the first has done its part, to the end or as far as it was asked to."""


class FollowersLog(Log):
    """Keeps nothing: rank 0 says it all."""

    def trained(self) -> None:
        raise Trained

    def stop(self) -> None:
        raise Trained


def _leave() -> None:
    import torch.distributed as dist

    dist.destroy_process_group()


def _code(process: subprocess.Popen[bytes]) -> int | None:
    """The code it has ended with by itself: one that has failed may need a moment to end."""
    try:
        return process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return None

"""The checkpoints of a training run: copied in a moment, written behind its back, and read back only when whole."""

import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from lm.distributed import from_rank_0, rank
from lm.optimizers.base import Optimizer
from lm.training.checkpoint.file import Torn, read, write
from lm.training.checkpoint.snapshot import Entry, Snapshot
from lm.training.checkpoint.state import Run, bytes_at_most, difference, restore, tensors_of
from lm.training.trunks.trunks import Trunks

# Seconds of training for one of a checkpoint, so that the disk and the processor that hashes the file are busy with it for a
# twentieth of the time at most.
SECONDS_FOR_ONE = 20


class Checkpoints:
    """Files `step-00000340.safetensors` of one run in `folder`; None: there is none, nothing is saved or found.

    Of the files, the newest `keep` stay, and every one whose step is a multiple of `milestone_every` (0: no milestones). A kill
    at any instant leaves the last whole one: an old file goes after the new one is on disk. The disk needs room for keep + 1.
    trunks: what a run without a file goes on from, and leaves to other runs; only rank 0 has them.
    every: seconds from one to the next at least; 0: one after every step.
    """

    def __init__(
        self,
        folder: Path | None,
        keep: int = 2,
        milestone_every: int = 0,
        trunks: Trunks | None = None,
        every: float = 0.0,
    ) -> None:
        if keep < 1 or milestone_every < 0:
            raise ValueError(f"keep={keep}, milestone_every={milestone_every}: at least 1 and 0")
        self._folder, self._keep, self._milestone_every = folder, keep, milestone_every
        self._trunks, self._snapshot = trunks, Snapshot()
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None
        self._every, self._saved, self._seconds = every, time.monotonic(), 0.0

    def reserve(self, run: Run, steps: int) -> None:
        """Take the memory that the saves of a run of so many steps will need where it must be pinned, which holds training up
        while it is taken. On a CPU a save takes it: a run that ends before the first save has no need of it."""
        if self._folder is not None and run.parallel.model.cos_TE.device.type == "cuda":
            self._snapshot.reserve(bytes_at_most(run, steps), pinned=True)

    def due(self) -> bool:
        """Whether it is time for the next: `every` seconds after the one before, and SECONDS_FOR_ONE times those that this took
        to be copied and written, so not while it is being written. Rank 0 says it for all."""
        if self._folder is None:
            return False
        if not self._every:
            return True
        if self._writing and not self._writing.done():
            return False
        return time.monotonic() - self._saved >= max(self._every, SECONDS_FOR_ONE * self._seconds)

    def save(self, step: int, run: Run) -> None:
        """Keep the state after `step` updates. It is copied when this returns and on disk after `wait`, `close` or the
        next save, which waits for this one: a disk that is slower than the saves slows them down, and none is left out.
        Every rank must call.

        Raises the OSError of the write before.
        """
        tensors = tensors_of(run)
        if self._folder is not None:
            self.wait()
            began = time.monotonic()
            entries, data = self._snapshot.take(tensors)
            self._saved = time.monotonic()
            self._writing = self._writer.submit(self._write, step, entries, data, _metadata(step, run), began)

    def keep_trunk(self, step: int, run: Run) -> None:
        """Keep the state after `step` updates for other runs, in the way of `save`. Every rank must call.

        Raises the OSError of the write before; one of its own is said on a line.
        """
        began, tensors = time.monotonic(), tensors_of(run)
        if self._trunks is not None:
            self.wait()
            entries, data = self._snapshot.take(tensors | self._trunks.record(step))
            self._writing = self._writer.submit(self._trunks.writer(step, run), entries, data, _metadata(step, run))
            self._trunks.seconds += time.monotonic() - began

    def wait(self) -> None:
        """Wait until the last save is on disk. Raises its OSError."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def close(self) -> None:
        """Wait, and end the writer: nothing can be saved afterwards."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def load(self, run: Run) -> int:
        """Bring the run to the newest whole checkpoint, else to its longest trunk, and return the updates made so far, 0 where
        there is neither.

        Every rank gets what rank 0 has read. A file that is not whole is renamed to `.torn` and reported on stderr, and the
        one before it taken. Raises ValueError when none is whole, or when it belongs to another run; then neither run nor
        files have changed.
        """
        step, tensors = self._newest(run) if rank() == 0 else (0, {})
        if self._trunks is not None and not tensors:
            step, tensors = self._trunks.load(run)
        step, tensors = from_rank_0(step, tensors)
        if tensors:
            restore(tensors, run)
        self._saved = time.monotonic()
        return step

    def _newest(self, run: Run) -> tuple[int, dict[str, Tensor]]:
        """(updates, state) of the newest whole checkpoint, which is one of this run."""
        torn: dict[Path, Torn] = {}
        step, tensors = 0, dict[str, Tensor]()
        for path in reversed(self._files()):
            try:
                metadata, tensors = read(path)
            except Torn as error:
                torn[path] = error
            else:
                _check(path, metadata, difference(tensors, run), run.parallel.optimizer)
                step = int(metadata["step"])
                break
        else:
            if torn:
                reasons = "; ".join(f"{path}: {reason}" for path, reason in torn.items())
                raise ValueError(f"{reasons}; no checkpoint is whole: {_anew(min(torn))}")
        for path, reason in torn.items():
            path.replace(path.with_suffix(".torn"))  # else it would count as one of the newest
            print(f"{path}: {reason}; set aside, going on from step {step}", file=sys.stderr)
        for leftover in self._folder.glob(".step-*.unfinished") if self._folder else ():
            leftover.unlink()
        return step, tensors

    def _write(
        self, step: int, entries: dict[str, Entry], data: list[memoryview], metadata: dict[str, str], began: float
    ) -> None:
        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        write(self._folder / f"step-{step:08}.safetensors", entries, data, metadata)
        passing = [path for path in self._files() if not self._is_milestone(_step(path))]
        for path in passing[: -self._keep]:
            path.unlink()
        self._seconds = time.monotonic() - began

    def _files(self) -> list[Path]:
        """The checkpoints, oldest first."""
        found = self._folder.glob("step-*.safetensors") if self._folder else ()
        return sorted((path for path in found if path.stem[5:].isdigit()), key=_step)

    def _is_milestone(self, step: int) -> bool:
        return self._milestone_every > 0 and step % self._milestone_every == 0


def _metadata(step: int, run: Run) -> dict[str, str]:
    return {"step": str(step), "optimizer": type(run.parallel.optimizer).__name__}


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _check(path: Path, metadata: dict[str, str], differs: str, optimizer: Optimizer) -> None:
    """Raise ValueError when the checkpoint is one of another run."""
    theirs, ours = metadata["optimizer"], type(optimizer).__name__
    if not differs and theirs != ours:
        differs = f"it is of {theirs}, here {ours}"
    if differs:
        raise ValueError(f"{path}: a checkpoint of another run: {differs}; {_anew(path)}")


def _anew(path: Path) -> str:
    return f"delete the folder {path.parent} to start the stage anew"

"""The loss of each sequence, which a step's loss is the mean of: what a spike can be traced by. 2 bytes a sequence."""

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from lm.distributed import rank, world_size


class SequenceLosses:
    """A .npy file of float16, nats a prediction, in the order of the plan; NaN where training has not been yet.

    sequences_S: how many each of the S steps has. A run that goes on from a checkpoint says the steps after it again, in the
    same bits. Every rank must call `of_step`; rank 0 has the file.
    """

    def __init__(self, path: Path, sequences_S: np.ndarray) -> None:
        self._ends = np.cumsum(sequences_S)
        self._rows: list[tuple[slice, Tensor]] = []
        self._file: np.ndarray | None = None
        if rank() == 0:
            there = path.exists()
            shape = None if there else (int(self._ends[-1]),)
            self._file = np.lib.format.open_memmap(path, "r+" if there else "w+", np.float16, shape)
            if not there:
                self._file[:] = np.nan

    def rows(self, rows: slice, losses_R: Tensor) -> None:
        """Take the losses of these rows of the batch at hand; they wait on their device, so that it need not wait for us."""
        self._rows.append((rows, losses_R.detach()))

    def of_step(self, step: int) -> Tensor:
        """losses_B of the batch at hand, which is that of this step, on its device: all of its rows have been said, by one rank
        or another."""
        losses_B = torch.zeros(int(self._ends[step]) - self._begin(step), device=self._rows[0][1].device)
        for rows, losses_R in self._rows:
            losses_B[rows] = losses_R
        self._rows.clear()
        if world_size() > 1:
            dist.all_reduce(losses_B, dist.ReduceOp.MAX)  # a row may be said twice: memory is measured by the first two
        return losses_B

    def keep(self, step: int, losses_B: Tensor) -> None:
        """Write the losses of a step, which are in host memory, to the file."""
        if self._file is not None:
            self._file[self._begin(step) : self._ends[step]] = losses_B.numpy()  # above 65504 nats it is infinite

    def _begin(self, step: int) -> int:
        return int(self._ends[step - 1]) if step else 0

    def until(self, steps: int) -> Tensor:
        """Losses of the sequences of the first `steps` steps, on rank 0."""
        assert self._file is not None
        return torch.from_numpy(np.array(self._file[: self._ends[steps - 1]]))

    def begin_with(self, losses: Tensor) -> None:
        """Take those of the first steps from a run that was the same so far, on rank 0."""
        assert self._file is not None
        self._file[: len(losses)] = losses.numpy()


def means(each_RT: Tensor, counted_RT: Tensor | None) -> Tensor:
    """R means over the predictions of each sequence that count; None: all do. 0 where none does."""
    if counted_RT is None:
        return each_RT.mean(1)
    return each_RT.where(counted_RT, 0).sum(1) / counted_RT.sum(1).clamp(min=1)

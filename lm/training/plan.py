"""Following a curriculum's plan: from a step's number to the tokens of its sequences."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor


class Plan:
    """The token ranges of every step, over the memory-mapped tokens.

    folder_of_tokens holds tokens.npy, folder_of_plan holds plan.parquet, both as the data stages wrote them.
    """

    def __init__(self, folder_of_plan: Path, folder_of_tokens: Path) -> None:
        self.tokens = np.load(folder_of_tokens / "tokens.npy", mmap_mode="r")
        table = pq.read_table(folder_of_plan / "plan.parquet", columns=["step", "sequence", "start", "length"])
        step, self._sequence, self._start, self._length = (column.to_numpy() for column in table.columns)
        self.steps = int(step[-1]) + 1 if len(step) else 0
        self._bounds = np.searchsorted(step, np.arange(self.steps + 1))

    def batch(self, step: int) -> Tensor:
        """ids_BN of the step: B sequences of N tokens, which give N - 1 predictions each."""
        rows = slice(self._bounds[step], self._bounds[step + 1])
        pieces = [
            self.tokens[start : start + length]
            for start, length in zip(self._start[rows], self._length[rows], strict=True)
        ]
        sequences = int(self._sequence[rows][-1]) + 1
        return torch.from_numpy(np.concatenate(pieces).astype(np.int64).reshape(sequences, -1))

    def tokens_at(self, step: int) -> int:
        """Tokens of the step's sequences."""
        return int(self._length[self._bounds[step] : self._bounds[step + 1]].sum())

"""Following a curriculum's plan: from a step's number to the tokens of its sequences."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lm.config import ConfigError

AGAIN = "make both anew: make pipeline TARGETS=curriculum FORCE=1"


class Plan:
    """The token ranges of every step, over the memory-mapped tokens.

    folder_of_tokens holds tokens.npy and documents.parquet, folder_of_plan holds plan.parquet, as the data stages wrote them. A
    range begins `offset` tokens behind the start of its document, which is a row of documents.parquet. Where documents have
    prefixes, or sequences padding, folder_of_plan holds their tokens too, in prefixes.npy; such ranges have a negative
    `document` (-1: padding), their tokens are read and not predicted, and a prefix and what follows it are one document.
    Raises ConfigError that names the file when one is missing, torn, or does not fit the others.
    """

    def __init__(self, folder_of_plan: Path, folder_of_tokens: Path) -> None:
        tokens, plan = folder_of_tokens / "tokens.npy", folder_of_plan / "plan.parquet"
        documents, prefixes = folder_of_tokens / "documents.parquet", folder_of_plan / "prefixes.npy"
        try:
            self.tokens = np.load(tokens, mmap_mode="r")
            self._prefixes = np.load(prefixes) if prefixes.exists() else np.zeros(0, dtype=np.uint32)
            places = pq.read_table(documents, columns=["start", "length"])
            table = pq.read_table(plan, columns=["step", "sequence", "document", "offset", "length"])
        except (OSError, ValueError) as error:  # pyarrow's errors are among them
            raise ConfigError(f"{plan} over {tokens} and {documents}: cannot be read: {error}; {AGAIN}") from None
        step, self._sequence, self._document, self._offset, self._length = (c.to_numpy() for c in table.columns)
        self._document_start, lengths = (column.to_numpy() for column in places.columns)
        self.steps = int(step[-1]) + 1 if len(step) else 0
        self._first_row = np.searchsorted(step, np.arange(self.steps + 1))
        empty = np.flatnonzero(np.diff(self._first_row) == 0)
        if len(empty):
            raise ConfigError(f"{plan}: has nothing for step {empty[0]} of {self.steps}; {AGAIN}")
        end = int((self._document_start + lengths).max(initial=0))
        if end > len(self.tokens):
            raise ConfigError(f"{documents}: ends with token {end} of {tokens}, which has {len(self.tokens)}; {AGAIN}")
        self._check(plan, documents, prefixes, lengths)

    def _check(self, plan: Path, documents: Path, prefixes: Path, lengths: np.ndarray) -> None:
        """Raise ConfigError unless every range is inside its document, or inside the prefixes. lengths: tokens of each
        document."""
        unknown = np.flatnonzero(self._document >= len(lengths))
        if len(unknown):
            row = unknown[0]
            raise ConfigError(
                f"{plan}: row {row} is of document {self._document[row]} of {documents}, which has {len(lengths)}; {AGAIN}"
            )
        real = self._document >= 0
        there = np.full(len(real), len(self._prefixes))
        there[real] = lengths[self._document[real]]
        outside = np.flatnonzero((self._offset < 0) | (self._offset > there - self._length))
        if len(outside):
            row = outside[0]
            place = f"document {self._document[row]} of {documents}" if real[row] else prefixes
            raise ConfigError(
                f"{plan}: row {row} asks for tokens {self._offset[row]} to {self._offset[row] + self._length[row]} of "
                f"{place}, which has {there[row]}; {AGAIN}"
            )

    def batch(self, step: int) -> Tensor:
        """ids_BN of the step: B sequences of N tokens, which give N - 1 predictions each."""
        rows = self._rows(step)
        real, start = self._document[rows] >= 0, self._offset[rows].astype(np.int64)
        start[real] += self._document_start[self._document[rows][real]]
        pieces = [
            (self.tokens if is_real else self._prefixes)[first : first + length]
            for is_real, first, length in zip(real, start, self._length[rows], strict=True)
        ]
        sequences = int(self._sequence[rows][-1]) + 1
        return torch.from_numpy(np.concatenate(pieces).astype(np.int64).reshape(sequences, -1))

    def loss_mask(self, step: int) -> Tensor | None:
        """Whether each of the B x (N - 1) predictions of batch(step) counts, as bools; None: all. Tokens of prefixes and
        padding are not predicted."""
        rows = self._rows(step)
        real = self._document[rows] >= 0
        if real.all():
            return None
        sequences = int(self._sequence[rows][-1]) + 1
        return torch.from_numpy(np.repeat(real, self._length[rows]).reshape(sequences, -1)[:, 1:].copy())

    def bounds(self, step: int) -> Tensor:
        """Where documents begin in the B x (N - 1) inputs of batch(step), and B x (N - 1) at the end: int64, as
        kernels.attention takes them.

        Every range of the plan is part of one document, of its prefix, or padding. The last token of a sequence is only a
        target, so a document of which the sequence has no other token begins nowhere.
        """
        rows = self._rows(step)
        lengths, sequences = self._length[rows], int(self._sequence[rows][-1]) + 1
        tokens = int(lengths.sum()) // sequences
        inputs = tokens - 1
        sequence, column = np.divmod(np.cumsum(lengths) - lengths, tokens)
        headed = np.append(False, self._document[rows][:-1] < -1) & (column > 0)  # by a prefix in the same sequence
        begins = (sequence * inputs + column)[(column < inputs) & ~headed]
        return torch.from_numpy(np.unique(np.append(begins, sequences * inputs)))

    def first_uneven(self, divisor: int) -> int | None:
        """The first step whose sequences are no multiple of the divisor; None where there is none."""
        uneven = np.flatnonzero(self.sequences % divisor)
        return int(uneven[0]) if len(uneven) else None

    @property
    def sequences(self) -> np.ndarray:
        """Number of sequences of each step."""
        return self._sequence[self._first_row[1:] - 1] + 1

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence of all steps."""
        firsts = np.flatnonzero(self._sequence[1:] != self._sequence[:-1]) + 1
        sequences = np.union1d(firsts, self._first_row[:-1])
        return int(np.add.reduceat(self._length, sequences).max()) if self.steps else 0

    @property
    def shapes(self) -> int:
        """How many sizes, sequences x tokens, the steps have between them."""
        tokens = np.add.reduceat(self._length, self._first_row[:-1]) if self.steps else np.empty(0, np.int64)
        return len(np.unique(np.stack((self.sequences, tokens)), axis=1).T)

    def _rows(self, step: int) -> slice:
        """The rows of the plan that are the step's."""
        return slice(self._first_row[step], self._first_row[step + 1])

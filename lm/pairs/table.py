"""Pairs as a table: their texts and ids, where they came from, which are held out, and what a start model makes of them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lm.files import replacing
from lm.training.data.conversations import Conversation

SIDES = ("chosen", "rejected")  # of a pair, the better one first
IDS = pa.list_(pa.field("element", pa.int32()))  # as Parquet calls it: what is read back is written as it was
PAIRS = pa.schema(
    [("source", pa.string()), ("prompt", pa.string()), ("chosen", pa.string()), ("rejected", pa.string()),
     ("prompt_ids", IDS), ("chosen_ids", IDS), ("rejected_ids", IDS), ("held_out", pa.bool_())]
)  # fmt: skip
QUARANTINE = pa.schema([(name, pa.string()) for name in ("source", "where", "reason", "excerpt")])
PAIRS_FILE, QUARANTINE_FILE = "pairs.parquet", "quarantine.parquet"


@dataclass(frozen=True)
class PairTable:
    """A row a pair: PAIRS, then log-probabilities (nats) under the start model, null where nobody asks for them.

    reference_<side>: of the answer. Where the loss needs a point, `other` is the row whose prompt each answer is put behind,
    and other_<side> its log-probability there. quarantine: of every row that is no pair the place and the reason.
    """

    table: pa.Table
    quarantine: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    def places(self, held_out: bool) -> list[int]:
        """Rows that are held out, or those that are learned from."""
        return np.flatnonzero(self.table["held_out"].to_numpy() == held_out).tolist()

    def ids(self, name: str, place: int) -> list[int]:
        """The ids of the prompt, or of an answer."""
        return self.table[f"{name}_ids"][place].as_py()

    def lengths(self, name: str) -> np.ndarray:
        """How many ids each prompt has, or each answer of a side."""
        return self.table[f"{name}_ids"].combine_chunks().value_lengths().to_numpy()

    def conversation(self, side: str, place: int) -> Conversation:
        """An answer behind its prompt."""
        return Conversation(self.ids("prompt", place), self.ids(side, place))

    def swapped_conversation(self, side: str, context: int, place: int) -> Conversation:
        """An answer behind the prompt of its other row, whose front goes where the context is too short for both."""
        prompt, answer = self.ids("prompt", self.table["other"][place].as_py()), self.ids(side, place)
        return Conversation(prompt[-min(len(prompt), context - len(answer)) :], answer)

    def logps(self, name: str) -> Tensor:
        """A column of log-probabilities, fp32; 0 where there is none."""
        if name not in self.table.column_names:
            return torch.zeros(len(self))
        return torch.from_numpy(self.table[name].fill_null(0.0).to_numpy().astype(np.float32))

    def with_column(self, name: str, values: list[Any], kind: pa.DataType) -> "PairTable":
        """These pairs with a column more."""
        return PairTable(self.table.append_column(name, pa.array(values, kind)), self.quarantine)

    def reasons(self) -> dict[str, int]:
        """How many rows are in quarantine, by reason."""
        return dict(sorted(Counter(self.quarantine["reason"].to_pylist()).items()))

    def write(self, folder: Path, write_table: Callable[[Path, pa.Table], None]) -> None:
        """Write both tables, the pairs last: where they stand, the other does, too."""
        for name, table in ((QUARANTINE_FILE, self.quarantine), (PAIRS_FILE, self.table)):
            with replacing(folder / name, durable=True) as unfinished:
                write_table(unfinished, table)


def read_pairs(folder: Path) -> PairTable | None:
    """The pairs that were written there; None where there are none."""
    if not (folder / PAIRS_FILE).exists():
        return None
    return PairTable(pq.read_table(folder / PAIRS_FILE).combine_chunks(), pq.read_table(folder / QUARANTINE_FILE))

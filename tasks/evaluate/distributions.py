"""What a model expects at some places of the held-out text, kept so that another model's expectations can be compared with it.

K places, N predictions of all documents, V vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tasks.core.tables import write_table
from tasks.evaluate.bits_per_byte import Window

# Beside a model's answers in its folder
FILE = "distributions.parquet"
# Of the file before it is packed, at most, whatever the vocabulary
BYTES = 16 << 20


def sample_positions(lengths: Sequence[int], most: int, vocabulary: int) -> list[tuple[int, int]]:
    """(document, place in it) of the tokens whose prediction is kept, from 1 on, evenly spaced over all predictions of
    documents of these lengths: `most` of them, fewer where the file would be larger than BYTES. The same whatever the model,
    so that two of one tokenizer are compared at the same places."""
    predictions = [max(length - 1, 0) for length in lengths]
    total = sum(predictions)
    count = min(most, total, BYTES // (2 * vocabulary))
    ends_D = np.cumsum(predictions)
    found = []
    for number in range(count):
        at = (2 * number + 1) * total // (2 * count)
        document = int(np.searchsorted(ends_D, at, side="right"))
        found.append((document, at - int(ends_D[document]) + predictions[document] + 1))
    return found


class Distributions:
    """Log-probabilities (nats, fp16) at the chosen places, filled in as the windows are read."""

    def __init__(self, places: list[tuple[int, int]], vocabulary: int) -> None:
        self.places = places
        self.logp_KV = np.zeros((len(places), vocabulary), np.float16)
        self._row = {place: row for row, place in enumerate(places)}

    def collect(self, windows: Sequence[Window], logits_NV: Tensor) -> None:
        """Take what is wanted of these windows; logits of their counted predictions, one window after another."""
        first = 0
        for window in windows:
            begin = len(window.ids) - window.counted
            for n in range(window.counted):
                row = self._row.get((window.document, window.start + begin + n))
                if row is not None:
                    self.logp_KV[row] = logits_NV[first + n].float().log_softmax(-1).to(torch.float16).cpu().numpy()
            first += window.counted

    def write(self, path: Path, ids: Sequence[str], sources: Sequence[str]) -> None:
        """A row a place: `id` and `source` of its document, `place` in it, and `logp`, V numbers of 2 bytes."""
        columns = {
            "id": [ids[document] for document, _ in self.places],
            "source": [sources[document] for document, _ in self.places],
            "place": [place for _, place in self.places],
            "logp": pa.array([row_V.astype("<f2").tobytes() for row_V in self.logp_KV], pa.binary()),
        }
        write_table(path, pa.table(columns))

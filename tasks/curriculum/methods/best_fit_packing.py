"""Best-fit packing (Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv:2404.10830): documents are put
whole into sequences, each where it leaves the least room; only those longer than a sequence are split.

Best-fit decreasing over all documents of a window and a round, where the paper packs a whole corpus offline. A sequence has
sequence_length + 1 tokens. A longer document is split into pieces that share one token with their neighbours, so that each of
its tokens but the first is predicted from the one before it; no token is cropped. What is left of a sequence is padding, which
gives no predictions.

As many tokens are drawn as sequences hold. Documents that padding then leaves no room for are out of the run: the last of the
draw, or, where the order has windows, the same share of every window. Differs from the paper: sequences are in random order,
and pieces within one in that of the draw, so that a sequence does not always begin with its longest.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.core.config import ConfigError
from tasks.curriculum.plan import PADDING, Budget, Documents, Draw, Ranges, Stream, shuffled


@dataclass(frozen=True)
class Pieces:
    """What must stay together of a stream: item numbers, the tokens (first and end) of the item, its window, and its block:
    only pieces of one block may share a sequence. A window is one block or several."""

    item: np.ndarray
    first: np.ndarray
    end: np.ndarray
    window: np.ndarray
    block: np.ndarray


def items_of(stream: Stream) -> np.ndarray:
    """Where items begin among the ranges: a document with its prefix, if it has one, is an item."""
    follows = np.concatenate(([False], stream.document[:-1] < 0))
    return np.flatnonzero(~follows)


def split(stream: Stream, capacity: int, a_round: int) -> Pieces:
    """Every item in as few pieces of at most `capacity` tokens as it takes, from its front; neighbours share one token.

    Blocks: the windows, each cut where `a_round` tokens of documents went by, so that a document meets itself in no sequence.
    """
    begins = items_of(stream)
    lengths = np.add.reduceat(stream.length, begins)
    counts = np.maximum(1, -(-(lengths - 1) // (capacity - 1)))
    item = np.repeat(np.arange(len(lengths)), counts)
    first = (np.arange(len(item)) - np.repeat(np.cumsum(counts) - counts, counts)) * (capacity - 1)
    own = np.where(stream.document >= 0, stream.length, 0)
    before = (np.cumsum(own) - own)[begins]
    window = np.zeros(len(begins), np.int64) if stream.window is None else stream.window[begins]
    opens = np.concatenate(([True], np.diff(window) != 0))
    since = before - before[np.flatnonzero(opens)][np.cumsum(opens) - 1]
    rounds = since // a_round
    block = np.cumsum(opens | np.concatenate(([False], np.diff(rounds) != 0))) - 1
    return Pieces(item, first, np.minimum(first + capacity, lengths[item]), window[item], block[item])


def sequences_of(pieces: Pieces, capacity: int, wanted: int, seed: int) -> np.ndarray:
    """The sequence of each piece, or -1.

    Only `wanted` sequences stay: of every window the same share, of its blocks the first, of the last of these a random part.
    """
    from tasks.curriculum.compiled import best_fit_decreasing

    edges = np.concatenate((np.flatnonzero(np.diff(pieces.block, prepend=-1)), [len(pieces.block)]))
    lengths = pieces.end - pieces.first
    bins = [best_fit_decreasing(lengths[a:b], capacity) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    counts = np.array([int(found.max()) + 1 for found in bins])
    windows = np.unique(pieces.window[edges[:-1]], return_inverse=True)[1]
    ends = np.cumsum(counts)
    total = int(ends[-1])
    of_window = np.bincount(windows, counts).astype(np.int64)
    quotas = np.diff(np.cumsum(of_window) * min(wanted, total) // total, prepend=0)
    before = ends - counts - (np.cumsum(of_window) - of_window)[windows]  # sequences of the window's earlier blocks
    kept = np.clip(quotas[windows] - before, 0, counts)
    sequence, first = np.empty(len(lengths), dtype=np.int64), 0
    for number, (found, count, keep) in enumerate(zip(bins, counts, kept, strict=True)):
        rank = shuffled(count, seed, 2 * number + 1)
        sequence[edges[number] : edges[number + 1]] = np.where(rank < keep, first + rank, -1)[found]
        first += keep
    return sequence


def ranges_of(
    stream: Stream, pieces: Pieces, sequence: np.ndarray, sequences: int, capacity: int
) -> tuple[np.ndarray, ...]:
    """(sequence, document, offset, length) of the ranges, each sequence filled up with padding."""
    from tasks.curriculum.compiled import grouped

    begins = items_of(stream)
    has_prefix = stream.document[begins] < 0
    prefix = np.where(has_prefix, stream.length[begins], 0)[pieces.item]
    body = (begins + has_prefix)[pieces.item]  # the document's range
    headed = np.flatnonzero((pieces.first == 0) & (prefix > 0))
    offset = np.maximum(pieces.first - prefix, 0)
    fill = np.bincount(sequence[sequence >= 0], (pieces.end - pieces.first)[sequence >= 0], sequences).astype(np.int64)
    padded = np.flatnonzero(fill < capacity)
    places = np.arange(len(body)) + np.cumsum((pieces.first == 0) & (prefix > 0))
    columns = []
    for head, own, filler in (
        (sequence[headed], sequence, padded),
        (stream.document[begins[pieces.item[headed]]], stream.document[body], PADDING),
        (stream.offset[begins[pieces.item[headed]]], stream.offset[body] + offset, 0),
        (prefix[headed], pieces.end - np.maximum(pieces.first, prefix), capacity - fill[padded]),
    ):
        column = np.empty(len(body) + len(headed) + len(padded), dtype=np.int64)
        column[places], column[places[headed] - 1], column[len(body) + len(headed) :] = own, head, filler
        columns.append(column)
    order = grouped(columns[0], sequences)
    return tuple(column[order] for column in columns)


class BestFitPacking(Config):
    name: Literal["best_fit_packing"] = "best_fit_packing"
    takes_orders: ClassVar[bool] = True
    sequence_length: int = Field(256, gt=0, description="predictions a sequence; it has a token more")

    def __call__(self, documents: Documents, draw: Draw, budget: Budget, seed: int) -> Ranges:
        """Every step has as many sequences as fit into it; what is padding counts as predictions of the budget."""
        per_step = budget.sequences_a_step(self.sequence_length, "curriculum.method.sequence_length")
        capacity, sequences = self.sequence_length + 1, budget.steps * per_step
        a_round = int(documents.length.sum())
        stream = draw(sequences * capacity)
        self._check(stream, capacity)
        pieces = split(stream, capacity, a_round)
        sequence = sequences_of(pieces, capacity, sequences, seed)
        columns = ranges_of(stream, pieces, sequence, sequences, capacity)
        return Ranges(columns[0] // per_step, columns[0] % per_step, *columns[1:])

    def _check(self, stream: Stream, capacity: int) -> None:
        if stream.window is None:
            raise ConfigError(
                "curriculum.order: best_fit_packing cannot keep a strict order; give the order bins to pack within"
            )
        longest = int(stream.length[stream.document < 0].max(initial=0))
        if longest >= capacity:
            raise ConfigError(f"curriculum.prefix: a prefix of {longest} tokens fills a sequence of {capacity}")

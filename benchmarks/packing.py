"""Packing a million documents into sequences of 2048 tokens: documents a second, how full sequences are, what is lost."""

import time
from collections.abc import Iterator

import numpy as np

from benchmarks.contest import Contest, Metric
from benchmarks.packing_peers import CAPACITY, DOCUMENTS, PACKERS, document_lengths, figures
from benchmarks.subprocess_arm import PEERS
from benchmarks.turns import Turns, persistent_arm
from tasks.curriculum.measure import covered
from tasks.curriculum.methods.best_fit_packing import ranges_of, sequences_of, split
from tasks.curriculum.plan import PADDING, Stream

METRICS = (
    Metric("speed", "documents/s", higher_is_better=True),
    Metric("use", "%", higher_is_better=True),
    Metric("kept", "%", higher_is_better=True),
    Metric("peak_memory_bytes", "B"),
)


def contests(threads: int) -> Iterator[Contest]:
    """Three pairs where a sample of the peer takes half a minute."""
    with persistent_arm("ours", "benchmarks.packing:best_fit", count=DOCUMENTS) as ours:
        for packer in PACKERS:
            pairs = 5 if packer.startswith("llama-factory") else 3
            with persistent_arm(packer, "benchmarks.packing_peers:pack", PEERS, packer=packer, count=DOCUMENTS) as peer:
                packages = ("numpy", "numba", "trl", "llamafactory", "axolotl")
                yield Contest(ours, METRICS, (peer,), gate, pairs, packages=packages)


def gate(ours: dict[str, float], peer: dict[str, float]) -> str:
    """What is wrong; empty where both are packings and ours is as good as was asked: 99.5% full, no token cropped."""
    overfull = [name for name, found in (("ours", ours), ("peer", peer)) if found["fullest"] > CAPACITY]
    if overfull:
        return f"{overfull[0]}: a bin has more than {CAPACITY} tokens"
    return "" if ours["use"] >= 99.5 and ours["cropped"] == 0 else f"ours: {ours}"


def best_fit(turns: Turns, count: int) -> None:
    """Samples of ours: from lengths to the ranges of a plan, sequences in random order. Tokens that neighbouring pieces of a
    document share are counted once."""
    lengths = document_lengths(count)
    stream = Stream(np.arange(count), np.zeros(count, dtype=np.int64), lengths, np.zeros(count, dtype=np.int64))
    while True:
        began = time.perf_counter()
        pieces = split(stream, CAPACITY, int(lengths.sum()))
        sequence = sequences_of(pieces, CAPACITY, int(lengths.sum()), 0)
        bins = int(sequence.max()) + 1
        ranges = ranges_of(stream, pieces, sequence, bins, CAPACITY)
        seconds = time.perf_counter() - began
        packed, fullest = once(ranges, lengths)
        turns(*figures(count, seconds, packed, bins, fullest))


def once(ranges: tuple[np.ndarray, ...], lengths: np.ndarray) -> tuple[int, int]:
    """How many tokens are in the ranges at least once, and the size of the fullest sequence, padding left out."""
    sequence, document, offset, length = (column[ranges[1] != PADDING] for column in ranges)
    starts = (np.cumsum(lengths) - lengths)[document] + offset
    return covered(starts, starts + length), int(np.bincount(sequence, length).max())

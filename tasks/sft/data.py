"""The conversations that fine-tuning learns from, and which of them each step takes."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm.conversations.dialogue import Refused
from lm.conversations.encode import Learned, cut
from lm.model import Decoder
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation
from tasks.core.config import ConfigError
from tasks.sft.sources.base import Read


@dataclass(frozen=True)
class Data:
    """conversations of all sources; picks_P, which of them stands at each place of the run; too_long: how many did not fit the
    context, and were cut or left out; refused: rows that are no conversation."""

    conversations: list[Conversation]
    picks_P: np.ndarray
    too_long: int
    refused: list[Refused]


def read_data(
    sources: Sequence[Any],
    order: Any,
    tokenizer: Tokenizer,
    problems: Any,
    folder: Path,
    learned: Learned,
    cuts: bool,
    context: int,
    places: int,
    seed: int,
    model: Decoder | None = None,
) -> Data:
    """What the sources have that fits the context, and the order in which so many places of a run take it.

    cuts: whether what is too long is cut, rather than left out. model: what some sources write with. Raises ConfigError for a
    source of which nothing is left.
    """
    conversations: list[Conversation] = []
    refused: list[Refused] = []
    source_P = spread([source.weight for source in sources], places)
    picks_P, too_long = np.zeros(places, dtype=np.int64), 0
    for number, source in enumerate(sources):
        read: Read = source(tokenizer, problems, folder, learned, model, seed)
        fitting = [(c if len(c) <= context else cut(c, context) if cuts else None) for c in read.conversations]
        kept = [(c, level) for c, level in zip(fitting, read.levels, strict=True) if c is not None]
        too_long += sum(len(c) > context for c in read.conversations)
        refused += read.refused
        if not kept:
            raise ConfigError(_nothing(source.name, read, context))
        mine_P = np.flatnonzero(source_P == number)
        lengths_N = np.array([len(c) for c, _ in kept])
        levels_N = np.array([level for _, level in kept], dtype=np.float64)
        picks_P[mine_P] = len(conversations) + order(lengths_N, levels_N, len(mine_P), seed + 1_000_003 * number)
        conversations += [c for c, _ in kept]
    return Data(conversations, picks_P, too_long, refused)


def spread(weights: Sequence[float], places: int) -> np.ndarray:
    """source_P of each place: sources by their weights, spread evenly: in the first places, however many, a source has its
    share of them to within (S + 1) / 2, where there are S sources. The first of more places are those of fewer."""
    total = sum(weights)
    turns, sources = [], []
    for number, weight in enumerate(weights):
        count = math.ceil(places * weight / total) + 1
        turns.append((np.arange(count) + 0.5) * (total / weight))
        sources.append(np.full(count, number))
    source = np.concatenate(sources)
    return source[np.lexsort((source, np.concatenate(turns)))][:places]


def reasons(refused: Sequence[Refused]) -> str:
    """The reasons for which rows were refused, the most frequent first, with how many and where the first of them stands."""
    counts = Counter(row.reason for row in refused)
    first = {row.reason: row.where for row in reversed(refused)}
    said = [f"{count} x {reason} (first: {first[reason]})" for reason, count in counts.most_common(3)]
    return "; ".join(said + [f"{len(counts) - 3} other reasons"] * (len(counts) > 3))


def _nothing(name: str, read: Read, context: int) -> str:
    if read.conversations:
        kind = "demonstrations" if name == "problems" else "conversations"
        return f"sft: none of the {len(read.conversations)} {kind} fits the context of {context} tokens"
    why = reasons(read.refused)
    return f"sft.sources: {name}: has no conversation" + (f": {why}" if why else "")

"""The conversations that fine-tuning learns from, and which of them each step takes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lm.conversations.dialogue import InvalidRow
from lm.conversations.encode import truncate
from lm.model import Decoder
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation
from tasks.core.config import ConfigError
from tasks.sft.sources.base import SourceData


@dataclass(frozen=True)
class Data:
    """conversations of all sources, with weights that their confidence is in; picks_P, which of them stands at each place of
    the run; too_long: how many did not fit the context, and were cut or left out; refused: rows that are no conversation."""

    conversations: list[Conversation]
    picks_P: np.ndarray
    too_long: int
    refused: list[InvalidRow]


def read_data(config: Any, tokenizer: Tokenizer, context: int, places: int, model: Decoder | None = None) -> Data:
    """What the sources of a SftConfig have that fits the context, and the order in which so many places of a run take it.

    model: what some sources write with, and some confidences ask. Raises ConfigError for a source of which nothing is left.
    """
    reads = [_fitting(source, config, tokenizer, context, model) for source in config.sources]
    counts = [len(read.conversations) for read, _ in reads]
    conversations = [conversation for read, _ in reads for conversation in read.conversations]
    stated_N = np.array([stated for read, _ in reads for stated in read.stated()], dtype=np.float64)
    levels_N = np.array([level for read, _ in reads for level in read.levels], dtype=np.float64)
    confidence_N = config.confidence(conversations, stated_N, model, tokenizer.pad_id)
    first, kept, members = 0, list[Conversation](), list[np.ndarray]()
    for source, count in zip(config.sources, counts, strict=True):
        mine = np.arange(first, first + count)[confidence_N[first : first + count] > 0]
        if not len(mine):
            raise ConfigError(f"sft.sources: {source.name}: none of its {count} conversations has a confidence above 0")
        members.append(mine)
        first += count
    source_P = config.mixture([source.weight for source in config.sources], [len(mine) for mine in members], places)
    picks_P = np.zeros(places, dtype=np.int64)
    for number, mine in enumerate(members):
        mine_P = np.flatnonzero(source_P == number)
        lengths_M = np.array([len(conversations[n]) for n in mine])
        seed = config.seed + 1_000_003 * number
        picks_P[mine_P] = len(kept) + config.order(lengths_M, levels_N[mine], len(mine_P), seed)
        kept += [weighted(conversations[n], float(confidence_N[n])) for n in mine]
    refused = [row for read, _ in reads for row in read.refused]
    return Data(kept, picks_P, sum(too_long for _, too_long in reads), refused)


def weighted(conversation: Conversation, confidence: float) -> Conversation:
    """The conversation, its weights multiplied by the confidence."""
    if confidence == 1:
        return conversation
    weights = conversation.weights or [1.0] * len(conversation.completion)
    return replace(conversation, weights=[weight * confidence for weight in weights])


def _fitting(
    source: Any, config: Any, tokenizer: Tokenizer, context: int, model: Decoder | None
) -> tuple[SourceData, int]:
    """(what a source has that fits the context, how many did not and were cut or left out)."""
    folder, cuts = Path(config.conversations.folder), config.too_long == "cut"
    read: SourceData = source(tokenizer, config.problems, folder, config.learned, model, config.seed)
    fitting = [(c if len(c) <= context else truncate(c, context) if cuts else None) for c in read.conversations]
    kept = [each for each in zip(fitting, read.levels, read.stated(), strict=True) if each[0] is not None]
    if not kept:
        raise ConfigError(_nothing(source.name, read, context))
    conversations = [c for c, _, _ in kept if c is not None]
    found = SourceData(conversations, [level for _, level, _ in kept], read.refused, [stated for *_, stated in kept])
    return found, sum(len(c) > context for c in read.conversations)


def reasons(refused: Sequence[InvalidRow]) -> str:
    """The reasons for which rows were refused, the most frequent first, with how many and where the first of them stands."""
    counts = Counter(row.reason for row in refused)
    first = {row.reason: row.where for row in reversed(refused)}
    said = [f"{count} x {reason} (first: {first[reason]})" for reason, count in counts.most_common(3)]
    return "; ".join(said + [f"{len(counts) - 3} other reasons"] * (len(counts) > 3))


def _nothing(name: str, read: SourceData, context: int) -> str:
    if read.conversations:
        kind = "demonstrations" if name == "problems" else "conversations"
        return f"sft: none of the {len(read.conversations)} {kind} fits the context of {context} tokens"
    why = reasons(read.refused)
    return f"sft.sources: {name}: has no conversation" + (f": {why}" if why else "")

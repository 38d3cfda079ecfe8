"""The pairs of all sources of a stage, and which of them are held out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from lm.config import ConfigError
from lm.pairs.base import EXCERPT, Pair, SkippedRow, Source, SourceInputs
from lm.pairs.query import Query, features
from lm.pairs.table import PAIRS, QUARANTINE, SIDES, PairTable
from lm.problems.example import unit_hash
from lm.training.data.conversations import Conversation

Row = dict[str, Any]
SEED_APART = 7919  # two sources that sample do not draw the same answers


def collect_pairs(
    sources: Sequence[Source], given: SourceInputs, held_out_fraction: float, query: Query | None = None
) -> PairTable:
    """Pairs of all sources, in their order, and what is none of them, does not fit the context, or is not asked for by the
    query. Raises ConfigError, which names given.slot, where there is no pair to learn from."""
    rows, left_out = list[Row](), list[Row]()
    for place, source in enumerate(sources):
        name = source.model_dump()["name"]
        for found in source(replace(given, seed=given.seed + SEED_APART * place)):
            row = found if isinstance(found, SkippedRow) else row_of(found, given, held_out_fraction)
            if isinstance(row, SkippedRow):
                left_out.append({"source": name, **vars(row)})
            else:
                rows.append({"source": name, **row})
    if query:
        rows, unasked = split_by_query(rows, given, query)
        left_out += unasked
    if all(row["held_out"] for row in rows):
        reasons = Counter(row["reason"] for row in left_out).most_common(3)
        why = ", ".join(f"{reason} {count}" for reason, count in reasons)
        held_out = f"{len(rows)} of held_out_fraction" if rows else ""
        raise ConfigError(f"{given.slot}: not one pair to learn from ({'; '.join(filter(None, (why, held_out)))})")
    return PairTable(pa.Table.from_pylist(rows, PAIRS), pa.Table.from_pylist(left_out, QUARANTINE))


def split_by_query(rows: Sequence[Row], given: SourceInputs, query: Query) -> tuple[list[Row], list[Row]]:
    """(rows that are held out or whose labels the query asks for; rows of the quarantine for the others)."""
    learned = [row for row in rows if not row["held_out"]]
    chosen, rejected = (
        [Conversation(row["prompt_ids"].tolist(), row[f"{side}_ids"].tolist()) for row in learned] for side in SIDES
    )
    asked = iter(query(features(given.model, chosen, rejected, given.tokenizer.pad_id)))
    kept, left_out = list[Row](), list[Row]()
    for row in rows:
        if row["held_out"] or next(asked):
            kept.append(row)
        else:
            told = {"where": row["where"], "reason": "not_queried", "excerpt": row["prompt"][:EXCERPT]}
            left_out.append({"source": row["source"], **told})
    return kept, left_out


def row_of(pair: Pair, given: SourceInputs, held_out_fraction: float) -> Row | SkippedRow:
    """The pair as a row. All pairs of one prompt are on one side of what is held out."""
    longest = len(pair.prompt_ids) + max(len(pair.chosen), len(pair.rejected))
    context = given.model.config.context
    if longest > context:
        return SkippedRow(
            pair.where, "too_long", f"{longest} tokens, and the context has {context}: {pair.prompt}"[:EXCERPT]
        )
    held_out = unit_hash(f"{given.slot.partition('.')[0]}:{pair.prompt}") < held_out_fraction
    texts = {"chosen": given.tokenizer.decode(pair.chosen), "rejected": given.tokenizer.decode(pair.rejected)}
    every = {"prompt": pair.prompt_ids, "chosen": pair.chosen, "rejected": pair.rejected}
    ids = {f"{name}_ids": np.array(some, np.int32) for name, some in every.items()}
    return {"where": pair.where, "prompt": pair.prompt, **texts, **ids, "held_out": held_out}

"""Rollouts of reinforcement learning to read by eye: prompts, what was answered to them and what each answer earned."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.report.words import truncate

ROLLOUTS, GROUPS, SAMPLES = 6, 3, 4
PART = "reward_"


@dataclass(frozen=True)
class Sample:
    """One answer; tokens: the model's own. reward and advantage: None of one without a verdict. parts: what each part of the
    reward gave, where there are several. learned: whether an update learned from it."""

    text: str
    tokens: int
    finished: bool
    reward: float | None
    parts: dict[str, float | None]
    advantage: float | None
    learned: bool


@dataclass(frozen=True)
class Group:
    """Some of the answers to one prompt, the best first; `answers` were given in all."""

    prompt: str
    level: str
    answers: int
    samples: list[Sample]


@dataclass(frozen=True)
class Rollout:
    """A rollout, counted from 0, after so many updates. reward: the mean of valid answers. equal: share of problems to which
    all answers earned the same. tokens, the model's own, and entropy (nats a token): means over answers."""

    number: int
    updates: int
    reward: float
    equal: float
    tokens: float
    entropy: float
    groups: list[Group]


def rollouts(folder: Path) -> list[Rollout]:
    """ROLLOUTS of those in rollouts.parquet, the first, the last and others evenly between; none where none were kept."""
    path = folder / "rollouts.parquet"
    if not path.exists():
        return []
    from lm.tokenizer import Tokenizer  # 0.2 s of imports, which a report without rollouts need not have

    last = pc.max(pq.read_table(path, columns=["rollout"])["rollout"]).as_py()
    if last is None:
        return []
    wanted = sorted({round(place * last / max(1, ROLLOUTS - 1)) for place in range(ROLLOUTS)})
    table, tokenizer = pq.read_table(path, filters=[("rollout", "in", wanted)]), Tokenizer.load(folder)
    return [rollout_of(table.filter(pc.equal(table["rollout"], number)), tokenizer) for number in wanted]


def rollout_of(table: pa.Table, tokenizer: Any) -> Rollout:
    """One rollout by its rows, which stand problem by problem."""
    rows = table.to_pylist()
    starts = [place for place, row in enumerate(rows) if row["sample"] == 0]
    groups = [rows[start:end] for start, end in zip(starts, [*starts[1:], len(rows)], strict=True)]
    rewards = [row["reward"] for row in rows if row["reward"] is not None]
    drawn = [logp for row in rows for logp in own_of(row, "logps")]
    return Rollout(
        rows[0]["rollout"],
        rows[0]["policy"],
        mean(rewards),
        mean([float(spread(group) == 0) for group in groups]),
        mean([float(len(own_of(row, "ids"))) for row in rows]),
        -mean(drawn),
        [group_of(group, tokenizer) for group in select_groups(groups)],
    )


def select_groups(groups: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """At most GROUPS: the one whose answers earned most apart, then one of those that all earned the same, the best and the
    worst; in their order."""
    apart = max(range(len(groups)), key=lambda place: spread(groups[place]))
    same = sorted((place for place in range(len(groups)) if spread(groups[place]) == 0), key=lambda p: best(groups[p]))
    found = dict.fromkeys([apart, *same[-1:], *same[:1], *range(len(groups))])
    return [groups[place] for place in sorted(list(found)[:GROUPS])]


def group_of(rows: list[dict[str, Any]], tokenizer: Any) -> Group:
    """The answers to a prompt, SAMPLES of them from the best to the worst."""
    ranked = sorted(rows, key=lambda row: (-earned(row), row["sample"]))
    count = min(SAMPLES, len(ranked))
    shown = [ranked[place * (len(ranked) - 1) // max(1, count - 1)] for place in range(count)]
    prompt = tokenizer.decode(rows[0]["prompt_ids"])
    return Group(truncate(prompt), rows[0]["level"] or "", len(rows), [sample_of(row, tokenizer) for row in shown])


def sample_of(row: dict[str, Any], tokenizer: Any) -> Sample:
    parts = {name.removeprefix(PART): value for name, value in row.items() if name.startswith(PART)}
    return Sample(
        truncate(tokenizer.decode(row["ids"])),
        len(own_of(row, "ids")),
        row["finished"],
        row["reward"],
        parts if len(parts) > 1 else {},
        row["advantage"] if row["reward"] is not None else None,
        row["learned"],
    )


def own_of(row: dict[str, Any], name: str) -> list[Any]:
    """Values of the tokens that the model wrote itself; all, where no environment wrote any."""
    return [value for value, own in zip(row[name], row.get("own") or [True] * len(row[name]), strict=True) if own]


def earned(row: dict[str, Any]) -> float:
    """The reward; of an answer without one less than any."""
    return -math.inf if row["reward"] is None else row["reward"]


def best(rows: list[dict[str, Any]]) -> float:
    return max(map(earned, rows))


def spread(rows: list[dict[str, Any]]) -> float:
    """How far the rewards of valid answers lie apart; 0 of fewer than two."""
    found = [row["reward"] for row in rows if row["reward"] is not None]
    return max(found) - min(found) if found else 0.0


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0

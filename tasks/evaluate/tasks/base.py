"""Questions with choices, of which the likeliest counts as the answer: what every task gives, and its figures."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.config import Config
from lm.intervals import wilson
from lm.model import ModelConfig
from lm.tokenizer import Tokenizer
from tasks.evaluate.likelihood import LikelihoodRequest

FOLDER = "data/tasks"


@dataclass(frozen=True)
class Item:
    """A question. asked: as token ids, its choices as what may follow; right: the place of the right one; characters: of each
    choice; kind: what questions are told apart by in figures, "" where they are not."""

    id: str
    asked: LikelihoodRequest
    right: int
    characters: list[int]
    kind: str = ""


class Task(Config):
    @property
    def label(self) -> str:
        """What its figures begin with."""
        raise NotImplementedError

    def items(self, tokenizer: Tokenizer, shape: ModelConfig, data: Path) -> list[Item]:
        """The questions, always in the same order. Raises ConfigError naming file and line."""
        raise NotImplementedError


def label_of(name: str) -> str:
    """A name as metrics may have it."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def pair(tokenizer: Tokenizer, text: str, following: str) -> tuple[list[int], list[int]]:
    """Ids of a text and of what follows it, parted as lm-evaluation-harness parts them: blanks at the end of the text belong to
    what follows, which is all that the tokens of both have beyond those of the text."""
    blanks = len(text) - len(text.rstrip())
    if blanks:
        text, following = text[:-blanks], text[-blanks:] + following
    before = [*tokenizer.before, *tokenizer.encode(text)] or [tokenizer.eos_id]
    whole = [*tokenizer.before, *tokenizer.encode(text + following)]
    return before, whole[len(before) :] if text or tokenizer.before else whole


def rows_of_items(items: list[Item], nats: list[list[float]]) -> list[dict[str, Any]]:
    """A row for each question: what was likeliest, by its nats and by its nats a character, and all of them; the first of
    equals."""
    rows = []
    for item, each in zip(items, nats, strict=True):
        by_character = [value / max(length, 1) for value, length in zip(each, item.characters, strict=True)]
        rows.append(
            {
                "id": item.id,
                "kind": item.kind,
                "right": item.right,
                "chosen": each.index(max(each)),
                "chosen_normalised": by_character.index(max(by_character)),
                "nats": each,
            }
        )
    return rows


def accuracy_metrics(label: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    """The share of right answers with its 95% interval (Wilson), that by nats a character, and the share of each kind."""
    right = [row["chosen"] == row["right"] for row in rows]
    low, high = wilson(sum(right), len(right))
    normalised = sum(row["chosen_normalised"] == row["right"] for row in rows)
    found = {
        f"{label}_accuracy": sum(right) / len(rows),
        f"{label}_accuracy_low": low,
        f"{label}_accuracy_high": high,
        f"{label}_normalised_accuracy": normalised / len(rows),
        f"{label}_questions": float(len(rows)),
    }
    for kind in sorted({row["kind"] for row in rows} - {""}):
        some = [good for good, row in zip(right, rows, strict=True) if row["kind"] == kind]
        found[f"{label}_accuracy_{kind}"] = sum(some) / len(some)
    return found

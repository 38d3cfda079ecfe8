"""A needle in a haystack: whether a model finds, anywhere in its context, what it has read once. After Kamradt 2023
(https://github.com/gkamradt/LLMTest_NeedleInAHaystack)."""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import ConfigError
from lm.model import ModelConfig
from lm.problems.example import unit_hash
from lm.tokenizer import Tokenizer
from tasks.core.tables import read_table
from tasks.evaluate.likelihood import LikelihoodRequest
from tasks.evaluate.tasks.base import Item, Task

CHOICES, DIGITS = 10, 4


class Needle(Task):
    """Held-out text with the sentence "The secret number is 4712." somewhere between its tokens, and " The secret number is" at
    its end: is 4712 the likeliest of ten numbers? Figures tell depths apart, in percent of the text before the needle.

    Differs from its source: numbers are chosen from by likelihood, not written, so that models that follow no instructions
    compare, and chance is a tenth."""

    name: Literal["needle"] = "needle"
    length: int = Field(
        0, ge=0, description="tokens of text, needle and question; 0: as many as the model's context has"
    )
    depths: int = Field(5, gt=1, description="places of the needle, evenly spaced from the first token to the last")
    tries: int = Field(20, gt=0, description="texts and numbers for each depth")

    @property
    def label(self) -> str:
        return "needle"

    def items(self, tokenizer: Tokenizer, shape: ModelConfig, data: Path) -> list[Item]:
        question, whole = tokenizer.encode(" The secret number is"), self.length or shape.context
        if whole > shape.context:
            raise ConfigError(
                f"evaluate.tasks: needle: length {whole} is more than the model's context, {shape.context}"
            )
        hay = held_out_tokens(data / "tokenize")
        if not len(hay):
            raise ConfigError("evaluate.tasks: needle: no document is held out, whose text a needle stands in")
        items = []
        for attempt in range(self.tries):
            numbers = numbers_of(f"needle:{attempt}")
            following = [tokenizer.encode(f" {number}") for number in numbers]
            for depth in range(self.depths):
                right = int(unit_hash(f"needle:{attempt}:{depth}") * CHOICES)
                needle = tokenizer.encode(f" The secret number is {numbers[right]}.")
                room = whole - len(tokenizer.before) - len(needle) - len(question) - max(map(len, following))
                if room < 1:
                    raise ConfigError(f"evaluate.tasks: needle: {whole} tokens leave no room for text")
                start = int(unit_hash(f"needle:text:{attempt}") * len(hay))
                text = np.resize(np.roll(hay, -start), room).tolist()
                at = round(depth * room / (self.depths - 1))
                ids = [*tokenizer.before, *text[:at], *needle, *text[at:], *question]
                kind = f"depth_{round(100 * depth / (self.depths - 1))}"
                items.append(
                    Item(f"{attempt}:{depth}", LikelihoodRequest(ids, following), right, [DIGITS] * CHOICES, kind)
                )
        return items


def numbers_of(key: str) -> list[str]:
    """Ten different numbers of four digits, always the same for a key."""
    found: dict[str, None] = {}
    draw = 0
    while len(found) < CHOICES:
        found[str(1000 + int(unit_hash(f"{key}:{draw}") * 9000))] = None
        draw += 1
    return list(found)


def held_out_tokens(folder: Path) -> np.ndarray:
    """Tokens of the held-out documents, laid end to end."""
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    rows = read_table(folder / "documents.parquet").to_pylist()
    parts = [tokens[row["start"] : row["start"] + row["length"]] for row in rows if row["split"] == "held_out"]
    return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)

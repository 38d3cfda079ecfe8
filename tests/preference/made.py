"""Problems, files of pairs and a model for tests of preference."""

import json
from pathlib import Path
from typing import Any

import torch

from lm.model import Decoder
from lm.problems.example import Example, Score
from tests.lm.models import toy_model, toy_tokenizer

TOKENIZER = toy_tokenizer()


class Parity:
    """Twelve problems. An answer whose characters have an even sum is right; one that begins with a character divisible by five has
    no verdict, but a value, which must not matter."""

    def examples(self, split: str) -> list[Example]:
        return [Example(f"{split}-{i}", "x" * (1 + i % 3) + f"{split[0]}{i}", "", f"shown {i}") for i in range(12)]

    def score(self, example: Example, text: str) -> Score:
        if text and ord(text[0]) % 5 == 0:
            return Score(1.0, valid=False)
        return Score(float(sum(map(ord, text)) % 2 == 0))


def writer(seed: int = 4) -> Decoder:
    """A model that ends its answers now and then, so that they differ in length."""
    model = toy_model(seed=seed, tied=False)
    with torch.no_grad():
        x_D = model.hidden(torch.arange(40)[None])[0].mean(0)
        model.head.weight[TOKENIZER.end_id] = 4 * x_D / x_D.square().sum()
    return model.eval()


def rows(count: int = 12) -> list[dict[str, Any]]:
    """Pairs to as many prompts, of answers of other lengths; what is chosen here is like what is rejected there."""
    found = []
    for n in range(count):
        answers = ["yes " * (1 + n % 3) + str(n), "no" * (1 + n % 4)]
        found.append({"prompt": f"ask {n}", "chosen": answers[n % 2], "rejected": answers[1 - n % 2]})
    return found


def write_rows(folder: Path, found: list[Any], name: str = "pairs.jsonl") -> Path:
    """JSON lines of these rows, or of the text itself where one is a text."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in found]
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder

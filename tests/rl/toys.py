"""A small model, problems and stages of reinforcement learning, for the tests of its room."""

from pathlib import Path
from typing import Any

import torch

from lm.averages import Last
from lm.checkpoint import save_model
from lm.heads import ScalarHeads, put_heads, save_scorer
from lm.model import Decoder
from lm.optimizers import AdamW
from lm.problems.example import Example, Score
from lm.schedules import Cosine
from tasks.core.log import Log
from tasks.rl.advantages import Grpo
from tasks.rl.learning import Learning
from tasks.rl.losses import PolicyGradient
from tasks.rl.stage import RlConfig, run
from tests.lm.models import toy_model, toy_tokenizer
from tests.project import digest

TOKENIZER = toy_tokenizer()


class Parity:
    """Twelve problems. Answers with an even sum of characters are right; of those that begin with a character divisible by
    three there is no verdict, but a value, which must not matter."""

    def __init__(self, unheard: float = 0.0, verdicts: bool = True) -> None:
        self._unheard, self._verdicts = unheard, verdicts

    def examples(self, split: str) -> list[Example]:
        assert split == "rl"
        return [Example(str(i), "x" * (1 + i % 3) + str(i), "", "shown", str(i % 2)) for i in range(12)]

    def score(self, example: Example, text: str) -> Score:
        heard = self._verdicts and (not text or ord(text[0]) % 3)
        return Score(float(sum(map(ord, text)) % 2 == 0)) if heard else Score(self._unheard, valid=False)


class Said(Log):
    """Keeps what is said of each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def __call__(self, step: int, **values: float) -> None:
        self.steps.append(values)


def policy() -> Decoder:
    """A model that ends its answers now and then, so that they differ in length."""
    model = toy_model(seed=4, tied=False)
    with torch.no_grad():
        x_D = model.hidden(torch.arange(40)[None])[0].mean(0)
        model.head.weight[TOKENIZER.end_id] = 4 * x_D / x_D.square().sum()
    return model


def scorer(bias: float = 0.0, members: int = 3) -> Decoder:
    """A reward model."""
    model = toy_model(seed=7)
    heads = ScalarHeads(model.config.width, members, 0)
    with torch.no_grad():
        heads.bias += bias
    put_heads(model, heads)
    return model


def config(problems: Any = None, **changes: Any) -> RlConfig:
    """Two rollouts of four updates each, at a rate at which clips bind."""
    given = {
        "model": "sft", "steps": 8, "prompts": 4, "samples": 4, "updates": 2, "minibatches": 2, "max_new_tokens": 6, "temperature": 0.7,
        "advantage": Grpo(), "loss": PolicyGradient(), "optimizer": AdamW(lr=0.01), "schedule": Cosine(), "average": Last(),
        "seed": 0,
    }  # fmt: skip
    checked = RlConfig.model_validate({**given, **changes, "problems": {"name": "arithmetic"}})
    return checked.model_copy(update={"problems": problems or Parity()})


def trained(folder: Path, given: RlConfig, model: Decoder | None = None) -> tuple[str, list[dict[str, float]]]:
    """(digest of the model, what was said of each step)."""
    (folder / "sft").mkdir(parents=True)
    (folder / "rl").mkdir()
    (folder / "checkpoint").mkdir()
    save_model(folder / "sft", model or policy(), TOKENIZER)
    save_scorer(folder / "checkpoint", scorer(), TOKENIZER)
    said = Said()
    run(given, folder, said)
    return digest(folder / "rl"), said.steps


def learning(given: RlConfig, model: Decoder | None = None) -> Learning:
    """How the toy model learns by this config."""
    return Learning(given, model or policy(), TOKENIZER, given.problems.examples("rl"))


class Interrupted(Said):
    """Asked to stop after every step."""

    stopping = True

    def __init__(self, scratch: Path) -> None:
        super().__init__()
        self.scratch = scratch

"""Self-training: the answers that are learned are the model's likeliest, or the likeliest that are right."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lm.model import Decoder
from lm.problems.example import Example, Score
from lm.sampler import Completion
from tasks.sft.sources import OwnAnswers
from tasks.sft.sources.own_answers import likeliest
from tests.lm.models import toy_model, toy_tokenizer

TOKENIZER = toy_tokenizer()


def speaks() -> Decoder:
    """A model that ends its answers now and then."""
    model = toy_model(seed=4, tied=False)
    with torch.no_grad():
        x_D = model.hidden(torch.arange(40)[None])[0].mean(0)
        model.head.weight[TOKENIZER.end_id] = 4 * x_D / x_D.square().sum()
    return model


class Even:
    """Six problems; an answer of an even number of characters is right, and of one that is empty there is no verdict."""

    def examples(self, split: str) -> list[Example]:
        return [Example(f"{split}{n}", f"{n}?", "", "") for n in range(6 if split == "sft" else 3)]

    def score(self, example: Example, text: str) -> Score:
        return Score(float(len(text) % 2 == 0), valid=bool(text))


@torch.no_grad()
def log_probability(model: Decoder, prompt: list[int], answer: list[int]) -> float:
    logps = model(torch.tensor([prompt + answer]))[0].log_softmax(-1)
    return sum(logps[len(prompt) + i - 1, token].item() for i, token in enumerate(answer))


def read(**changes: Any) -> list[tuple[list[int], list[int]]]:
    method = OwnAnswers(**{"samples": 8, "max_new_tokens": 8, **changes})
    found = method(TOKENIZER, Even(), Path(), "all", speaks(), changes.pop("seed", 0))
    assert len(found.levels) == len(found.conversations)
    return [(c.prompt, c.completion) for c in found.conversations]


def test_the_likeliest_of_more_answers_is_likelier() -> None:
    model = speaks()
    found = {samples: {tuple(p): a for p, a in read(samples=samples)} for samples in (1, 8, 32)}
    assert len(found[32]) == 6 and all(answer[-1] == TOKENIZER.end_id for answer in found[32].values())
    for prompt, answer in found[8].items():
        better = log_probability(model, list(prompt), found[32][prompt])
        assert better >= log_probability(model, list(prompt), answer) - 1e-5  # its eight are among the thirty-two
    assert found[1] != found[32]


def test_by_the_verifier_every_answer_is_right() -> None:
    found = read(judge="verifier")
    assert found and all(len(TOKENIZER.decode(answer)) % 2 == 0 and TOKENIZER.decode(answer) for _, answer in found)
    assert found != read()


def test_split_temperature_and_seed_decide_and_nothing_else() -> None:
    assert read() == read()
    assert [prompt for prompt, _ in read(split="rl", samples=32)] == [TOKENIZER.chat(f"{n}?") for n in range(3)]
    method = OwnAnswers(samples=8, max_new_tokens=8)
    other = method(TOKENIZER, Even(), Path(), "all", speaks(), 1)
    assert [(c.prompt, c.completion) for c in other.conversations] != read() != read(temperature=0.5)


def test_an_answer_that_never_ended_is_none() -> None:
    one, two, three = (
        Completion([5], [-3.0], True),
        Completion([6], [-0.1], False),
        Completion([7, 8], [-1.0, -1.5], True),
    )
    assert likeliest([one, two, three]) is three and likeliest([two]) is None and likeliest([]) is None
    with pytest.raises(ValueError, match="own_answers are written by the model when the stage runs"):
        OwnAnswers()(TOKENIZER, Even(), Path(), "all", None, 0)

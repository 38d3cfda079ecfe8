"""pass@N: numbers by hand, and answers that no other problem changes."""

from typing import Any

import pytest
import torch

from lm.model import Decoder
from lm.problems.example import Example, Score
from tasks.evaluate.coverage import coverage, sampled_scores
from tests.evaluate.test_run import TOKENIZER, decided

RIGHT, WRONG, NONE = Score(1.0), Score(0.0), Score(1.0, valid=False)


def test_coverage_by_hand() -> None:
    # Of four problems one has no verdict at all. Answers are right 2/2 (the third has none), 1/3 and 0/3: a mean of 4/9; two of
    # three are covered.
    found = coverage([[RIGHT, NONE, RIGHT], [WRONG, RIGHT, WRONG], [WRONG] * 3, [NONE] * 3])
    assert found["pass_at_1"] == pytest.approx(4 / 9) and found["pass_at_n"] == pytest.approx(2 / 3)
    assert found["pass_at_n_low"] == pytest.approx(0.2077, abs=1e-4) and found["pass_at_n_high"] == pytest.approx(
        0.9385, abs=1e-4
    )
    assert coverage([[NONE]])["pass_at_n"] == 0 and coverage([])["pass_at_n_high"] == 1


class Heard:
    """A verifier that keeps the answers it is asked about, and finds those of an even length right."""

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}

    def score(self, example: Example, text: str) -> Score:
        self.texts.setdefault(example.id, []).append(text)
        return Score(float(len(text) % 2 == 0))


def answers(model: Decoder, prompts: dict[str, str], samples: int = 3, batch: int = 8) -> dict[str, list[str]]:
    heard = Heard()
    examples = [Example(name, prompt, "", "") for name, prompt in prompts.items()]
    scores = sampled_scores(model, TOKENIZER, heard, examples, samples, 12, 1.0, lambda *said: None, batch)
    assert [len(some) for some in scores] == [samples] * len(prompts)
    return {name: texts[1:] for name, texts in heard.texts.items()}  # the first is the empty one


def test_no_other_problem_changes_an_answer() -> None:
    model, prompts = decided(), {"a": "1+1=", "b": "12+34=", "c": "5+5=", "d": "9+9="}
    whole = answers(model, prompts)
    assert len({text for texts in whole.values() for text in texts}) > 6, "answers are drawn"
    assert answers(model, dict(reversed(prompts.items())), batch=4) == whole
    assert answers(model, {"c": "5+5="})["c"] == whole["c"]
    assert all(few == whole[name][:2] for name, few in answers(model, prompts, samples=2).items())


def test_a_prompt_without_room_has_empty_answers() -> None:
    model = decided()
    heard: Any = Heard()
    long = Example("long", "x" * model.config.context, "", "")
    (scores,) = sampled_scores(model, TOKENIZER, heard, [long], 2, 12, 1.0, lambda *said: None)
    assert scores == [RIGHT, RIGHT] and heard.texts == {"long": [""]} and not torch.is_inference_mode_enabled()

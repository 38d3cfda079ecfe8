"""Self-training: the answers that are learned are the model's likeliest, or the likeliest that are right."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lm.model import Decoder
from lm.problems.example import Example, Score, unit_hash
from lm.sampler import Completion, generate
from tasks.sft.sources import OwnAnswers
from tasks.sft.sources.own_answers import VERDICT, likeliest, reflecting
from tests.lm.models import toy_tokenizer
from tests.sft.models import speaks

TOKENIZER = toy_tokenizer()


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


def reflected(rewriter: str) -> dict[str, list[int]]:
    """The answers that are learned of each question, by a model that has room to look back; one answer to each is drawn."""
    method = OwnAnswers(samples=1, max_new_tokens=24, judge="verifier", rewriter=rewriter)
    found = method(TOKENIZER, Even(), Path(), "all", speaks(context=128), 3)
    assert len(found.levels) == len(found.conversations)
    return {TOKENIZER.decode(c.prompt): c.completion for c in found.conversations}


def test_a_wrong_answer_is_answered_again_with_the_verdict_in_sight() -> None:
    plain, again = reflected("none"), reflected("reflection")
    assert len(plain) < len(again) and {question: again[question] for question in plain} == plain
    assert all(len(TOKENIZER.decode(answer)) % 2 == 0 for answer in again.values())
    written = TOKENIZER.spell(reflecting("0?", "odd", TOKENIZER) or [])
    assert written == f"<|user|>0?<|assistant|>odd<|end|><|user|>{VERDICT}<|assistant|>"
    assert reflecting("0?", "<|end|>", TOKENIZER) is None


def test_what_is_learned_at_the_second_try_is_what_the_model_says_to_that() -> None:
    """Each new answer is one of the first tokens that the model puts behind the question, the wrong answer and the verdict."""
    method, model, even = OwnAnswers(samples=1, max_new_tokens=24), speaks(context=128), Even()
    first = {
        e.prompt: answers[0]
        for some in method.answer_problems(even.examples("sft"), TOKENIZER, model, 3)
        for e, answers in some
    }
    new = {
        question: answer for question, answer in reflected("reflection").items() if question not in reflected("none")
    }
    for question, answer in new.items():
        wrong = first[question]
        assert wrong.finished and len(TOKENIZER.decode(wrong.ids)) % 2 == 1
        prompt = reflecting(question, TOKENIZER.decode(wrong.ids), TOKENIZER)
        assert prompt is not None
        draws = [int(unit_hash(f"reflected:sft{question[:-1]}:0") * 2**53)]
        assert generate(model, [prompt], 24, 1.0, TOKENIZER.end_id, 3, 64, draws)[0].ids == answer


def test_reflection_needs_a_verdict() -> None:
    with pytest.raises(
        ValueError, match="rewriter reflection answers again what the verifier refuses: it needs `judge: verifier`"
    ):
        OwnAnswers(rewriter="reflection")

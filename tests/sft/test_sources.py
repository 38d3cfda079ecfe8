"""Sources that are made of the problem set: its steps as problems of their own, and demonstrations behind attempts."""

from pathlib import Path
from typing import Any

import pytest

from lm.problems import Arithmetic
from lm.problems.example import Example, Score
from lm.tokenizer import Tokenizer
from tasks.sft.examples import pieces
from tasks.sft.sources import Attempts, Problems, Subtasks
from tasks.sft.sources.attempts import AGAIN, refined
from tasks.sft.sources.base import SourceData
from tasks.sft.sources.subtasks import steps_of
from tests.conversations.folders import LLAMA2, strangers_folder
from tests.lm.models import toy_tokenizer
from tests.sft.models import speaks

TOKENIZER = toy_tokenizer()

STEPS: list[tuple[str, list[tuple[str, str]]]] = [
    ("7+8=15 4+3+1=8: 85", [("7+8", "15"), ("4+3+1", "8")]),
    ("12-7=5 4-1-1=2: 25", [("12-7", "5"), ("4-1-1", "2")]),
    (
        "Half is 48 / 2 = <<48/2=24>>24, with 1+1 it is <<24+1.5=25.5>>25.5\n#### 25.5",
        [("48/2", "24"), ("24+1.5", "25.5")],
    ),
    ("So 3 * 4.50 = 13.50, and 10 - 13 = -3.", [("3 * 4.50", "13.50"), ("10 - 13", "-3")]),
    ("x = 3 and y=4", []),
    ("85", []),
]


@pytest.mark.parametrize(("demonstration", "steps"), STEPS)
def test_steps_by_hand(demonstration: str, steps: list[tuple[str, str]]) -> None:
    assert steps_of(demonstration) == steps


def test_each_step_is_asked_once_and_none_that_is_held_out() -> None:
    problems = Arithmetic(digits=2, worked_fraction=1.0)
    found = Subtasks().pairs(problems)
    asked = [prompt for prompt, _ in found]
    assert len(set(asked)) == len(asked)
    held_out = {e.prompt for split in ("rl", "test") for e in problems.examples(split)}
    steps = {f"{left}=" for e in problems.examples("sft") for left, _ in steps_of(e.demonstration)}
    assert steps & held_out and set(asked) == steps - held_out
    for prompt, answer in found:
        first, *more = prompt[:-1].replace("-", "+-").split("+")
        assert int(first) + sum(map(int, more)) == int(answer)
    read = Subtasks()(TOKENIZER, problems, Path(), "all", None, 0)
    spelled = [TOKENIZER.spell(c.prompt + c.completion) for c in read.conversations]
    assert spelled == [f"<|user|>{prompt}<|assistant|>{answer}<|end|>" for prompt, answer in found]


def test_problems_and_their_steps_are_written_as_an_adopted_template_has_an_exchange(tmp_path: Path) -> None:
    """With the blanks that Llama 2's puts around an answer."""
    problems, llama = Arithmetic(digits=2, worked_fraction=1.0), Tokenizer.adopt(strangers_folder(tmp_path, LLAMA2))
    shown = [(e.prompt, e.demonstration) for e in problems.examples("sft")]
    for source, pairs in ((Subtasks(), Subtasks().pairs(problems)), (Problems(), shown)):
        read = source(llama, problems, Path(), "all", None, 0)
        spelled = [llama.spell(c.prompt + c.completion) for c in read.conversations[:50]]
        assert spelled == [f"<s>[INST] {prompt} [/INST] {answer} </s>" for prompt, answer in pairs[:50]]


class Even:
    """Six problems, of which an answer of an even number of characters is right, and an empty one has no verdict."""

    def examples(self, split: str) -> list[Example]:
        assert split == "sft"
        return [Example(f"{n}", f"{n}?", "", f"the {n}th") for n in range(6)]

    def score(self, example: Example, text: str) -> Score:
        return Score(float(len(text) % 2 == 0), valid=bool(text))


def test_attempts_are_masked_by_hand() -> None:
    dialogue = refined(Example("a", "2+2=", "4", "4"), ["5", "22"])
    assert dialogue.weights == [0, 0, 0, 0, 0, 1]
    assert [m["content"] for m in dialogue.messages] == ["2+2=", "5", AGAIN, "22", AGAIN, "4"]
    assert [m["role"] for m in dialogue.messages] == ["user", "assistant"] * 3


def attempted(seed: int = 0, **changes: Any) -> SourceData:
    method = Attempts(**{"samples": 3, "max_new_tokens": 8, **changes})
    return method(TOKENIZER, Even(), Path(), "all", speaks(context=160), seed)


def test_the_demonstration_alone_counts_behind_attempts_that_are_wrong() -> None:
    found = attempted()
    assert found.conversations and not found.refused
    for c in found.conversations:
        *_, read, learned = pieces(TOKENIZER, c)
        turns = read.text.split("<|user|>")[1:]
        number = turns[0][0]
        assert read.weight == 0 and learned.weight == 1 and learned.text == f"the {number}th<|end|>"
        assert turns[0].startswith(f"{number}?<|assistant|>") and len(turns) > 1
        assert all(turn.startswith(AGAIN) for turn in turns[1:])
        attempts = [turn.split("<|assistant|>")[1].removesuffix("<|end|>") for turn in turns[:-1]]
        assert len(set(attempts)) == len(attempts) <= 3
        assert all(len(attempt) % 2 for attempt in attempts)
    every = attempted(kept="all")
    assert len(every.conversations) >= len(found.conversations)
    assert sum(map(len, every.conversations)) > sum(map(len, found.conversations))


def test_attempts_follow_from_seed_and_temperature() -> None:
    def ids(**changes: Any) -> list[list[int]]:
        return [c.prompt + c.completion for c in attempted(**changes).conversations]

    assert ids() == ids()
    assert ids(seed=1) != ids() != ids(temperature=0.5)
    with pytest.raises(ValueError, match="attempts are made by the model when the stage runs"):
        Attempts()(TOKENIZER, Even(), Path(), "all", None, 0)

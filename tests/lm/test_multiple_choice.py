"""Questions with choices: which choice is right, and what an answer names."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import ConfigError
from lm.problems.example import Example
from lm.problems.multiple_choice import LETTERS, MultipleChoice
from tests.lm.problem_files import filled

CHOICES = ["a cat", "a dog", "B", "none of them", "a cat and a dog"]


def example(folder: Path, **changes: Any) -> Example:
    row = {"question": "Which barks?", "choices": CHOICES, "answer": 1, **changes}
    (folder / "p.jsonl").write_text(json.dumps(row))
    chosen = MultipleChoice(folder=str(folder))
    (found,) = [each for split in ("sft", "rl", "test") for each in chosen.examples(split)]
    return found


def letter(found: Example) -> str:
    return json.loads(found.answer)["letter"]


def test_a_prompt_has_the_choices_and_the_right_one_is_told_in_three_ways(tmp_path: Path) -> None:
    found = example(tmp_path, explanation="Dogs bark.", level=3, id="one")
    assert found.prompt == "Which barks?\nA. a cat\nB. a dog\nC. B\nD. none of them\nE. a cat and a dog"
    assert (found.demonstration, found.level, found.id) == ("Dogs bark.\n#### B", "3", "one")
    assert example(tmp_path).demonstration == "B"
    told = {0: "A", 4: "E", "A": "A", "D": "D", "a dog": "B", "none of them": "D"}
    assert {answer: letter(example(tmp_path, answer=answer)) for answer in told} == told


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer": 5}, "`answer` 5 is none of the choices"),
        ({"answer": -1}, "`answer` -1 is none of the choices"),
        ({"answer": True}, "`answer` True is none of the choices"),
        ({"answer": "F"}, "`answer` 'F' is none of the choices"),
        ({"answer": "a Dog"}, "is none of the choices"),
        ({"answer": "B"}, "is both a letter and the text of another choice"),
        ({"answer": None}, "is none of the choices"),
        ({"choices": ["one"]}, "`choices` is"),
        ({"choices": ["one", "ONE "]}, "`choices` is"),
        ({"choices": ["one", 2]}, "`choices` is"),
        ({"choices": list("abcdefghijk")}, "`choices` is"),
        ({"choices": {"A": "one"}}, "`choices` is"),
        ({"question": " "}, "`question` is blank"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"p\.jsonl:1: .*{reason}"):
        example(tmp_path, **changes)


FORMS = (
    "{}", "({})", "{}.", "{})", " {}\n", "{}. {text}", "({}) {text}", "{}: {text}.", "so\n#### {}", "#### ({})", "\\boxed{{{}}}", "#### A\n#### {}",
)  # fmt: skip
# What looks like an answer that names the choice, and names none, two, or says another one's text
NEAR = (
    "{}{}", "{} {}", "not {}", "{} or A", "A or {}", "{}, A", "{}. {other}", "{}: {text} and more", "I think {}", "answer: {}", "#### not {}", "{}?",
    "({}", "#### {}\n####", "the {}", "{}\n{other}",
)  # fmt: skip


@settings(deadline=None, max_examples=150, derandomize=True)
@given(right=st.integers(0, 4), said=st.integers(0, 4), form=st.sampled_from(FORMS), near=st.sampled_from(NEAR))
def test_an_answer_names_one_choice_or_is_wrong(right: int, said: int, form: str, near: str) -> None:
    given = Example("", "", json.dumps({"letter": LETTERS[right], "choices": CHOICES}), "")
    score = MultipleChoice().score
    words = {"text": CHOICES[said], "other": CHOICES[(said + 1) % 5]}
    one = LETTERS[said]
    assert score(given, form.format(one, **words)).value == float(right == said)
    assert score(given, near.format(one, one, **words)).value == 0
    assert score(given, form.format(one.lower(), **words)).value == 0
    assert score(given, form.format("F", **words)).value == score(given, "").value == 0


def test_the_same_question_with_other_choices_is_in_one_split(tmp_path: Path) -> None:
    filled(MultipleChoice, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    more = [{**row, "question": row["question"].upper() + " ", "choices": [*row["choices"], "9\n9"]} for row in rows]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))
    chosen = MultipleChoice(folder=str(tmp_path))
    keys = {split: {chosen.key(e) for e in chosen.examples(split)} for split in ("sft", "rl", "test")}
    assert sum(map(len, keys.values())) == len(rows) == len(set.union(*keys.values())) and all(keys.values())

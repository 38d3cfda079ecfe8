"""Problem sets: disjoint splits, demonstrations that the verifier accepts, and working that is right."""

import gzip
import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm import problems
from lm.config import methods_of
from lm.problems.arithmetic import SHARES, Arithmetic, pairs_of, solve, working
from lm.problems.gsm8k import Gsm8k

SPLITS = ("sft", "rl", "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"question": f"Ann has {i} apples and eats one?", "answer": f"One less.\n#### {i - 1:,}"}
        for i in range(1, 2000, 7)
    ]
    with gzip.open(tmp_path / "train.jsonl.gz", "wt") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path


@pytest.mark.parametrize("method", methods_of(problems), ids=lambda m: m.__name__)
def test_splits_are_disjoint_and_not_empty(method, folder: Path) -> None:
    prompts = [{e.prompt for e in method(folder=str(folder)).examples(split)} for split in SPLITS]
    assert all(prompts) and sum(map(len, prompts)) == len(set.union(*prompts))


@pytest.mark.parametrize("method", methods_of(problems), ids=lambda m: m.__name__)
def test_demonstrations_score_one_and_other_answers_zero(method, folder: Path) -> None:
    chosen = method(folder=str(folder))
    for example in chosen.examples("sft"):
        assert chosen.score(example, example.demonstration).value == 1
        assert chosen.score(example, example.demonstration + "7").value == 0
        assert chosen.score(example, "").value == 0


def turned_round(left: int, operator: str, right: int) -> set[tuple[int, str, int]]:
    """The other problems that say the same of three numbers: 7-2 is 5, so 7-5 is 2, and 2+5 and 5+2 are 7."""
    if operator == "+":
        return {(right, "+", left), (left + right, "-", left), (left + right, "-", right)}
    other = left - right
    return {(left, "-", other), (right, "+", other), (other, "+", right)}


@pytest.mark.parametrize("digits", [1, 2])
def test_no_split_sees_a_problem_of_another_turned_round(digits: int) -> None:
    every = {problem: split for split in SHARES for problem in pairs_of(split, digits)}
    count = 10**digits
    assert len(every) == sum(len(pairs_of(split, digits)) for split in SHARES) == count**2 + count * (count + 1) // 2
    for problem, split in every.items():
        assert {every.get(turned, split) for turned in turned_round(*problem)} == {split}
    assert min(Counter(every.values()).values()) >= 10, "each split has problems, also of one digit"


def test_worksheets_hold_no_problem_of_sft_rl_or_test() -> None:
    arithmetic = Arithmetic()
    for split in ("worksheets", "held_out"):
        lines = {line.split("=")[0] + "=" for line in islice(arithmetic.worksheet_lines(0, split), 20_000)}
        assert not lines & {e.prompt for split in SPLITS for e in arithmetic.examples(split)}


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.integers(0, 999), st.sampled_from("+-"), st.integers(0, 999))
def test_working_is_right(left: int, operator: str, right: int) -> None:
    left, right = max(left, right), min(left, right)
    digits = []
    for step in working(left, operator, right).split():
        sum_, _, result = step.partition("=")
        assert eval(sum_) == int(result) and int(result) >= 0  # noqa: S307 - digits and signs that we wrote
        digits.append(int(result) % 10)
    assert sum(digit * 10**place for place, digit in enumerate(digits)) == solve(left, operator, right) % 10 ** len(
        digits
    )


def test_worked_by_hand() -> None:
    assert working(47, "+", 38) == "7+8=15 4+3+1=8"
    assert working(52, "-", 38) == "12-8=4 5-3-1=1"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "JSON object"),
        ('{"question": "q"}', "JSON object"),
        ('{"question": "q", "answer": "7"}', "no number after"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, reason: str) -> None:
    (tmp_path / "p.jsonl").write_text('{"question": "q", "answer": "#### 7"}\n' + row + "\n")
    with pytest.raises(ValueError, match=f"p.jsonl:2: .*{reason}"):
        Gsm8k(folder=str(tmp_path)).examples("sft")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no .*jsonl"):
        Gsm8k(folder=str(tmp_path)).examples("sft")


def test_numbers_are_compared_as_numbers(folder: Path) -> None:
    gsm8k = Gsm8k(folder=str(folder))
    example = next(e for e in gsm8k.examples("sft") if float(e.answer) >= 1000)
    assert gsm8k.score(example, f"#### {float(example.answer):,.1f}").value == 1
    assert gsm8k.score(example, example.answer).value == 0

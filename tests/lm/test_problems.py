"""Problem sets: disjoint splits, demonstrations that the verifier accepts, and working that is right."""

import bz2
import gzip
import json
import lzma
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lm import problems
from lm.config import ConfigError, methods_of
from lm.problems.arithmetic import SHARES, Arithmetic, pairs_of, solve, working
from lm.problems.example import Example, Score
from lm.problems.folder import normalised
from lm.problems.gsm8k import Gsm8k
from tests.lm.problem_files import filled

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


def made(method: Any, folder: Path) -> Any:
    """The problems of a folder of their own, or some hundreds that are drawn."""
    drawn = {"drawn": 1000} if "drawn" in method.model_fields else {}
    return method(folder=str(filled(method, folder)), **drawn)


@pytest.mark.parametrize("method", methods_of(problems), ids=lambda m: m.__name__)
def test_splits_are_disjoint_and_not_empty(method, tmp_path: Path) -> None:
    chosen = made(method, tmp_path)
    prompts = [{normalised(e.prompt) for e in chosen.examples(split)} for split in SPLITS]
    assert all(prompts) and sum(map(len, prompts)) == len(set.union(*prompts))


@pytest.mark.parametrize("method", methods_of(problems), ids=lambda m: m.__name__)
def test_demonstrations_score_one_and_other_answers_zero(method, tmp_path: Path) -> None:
    chosen = made(method, tmp_path)
    few = 4 if method.__name__ == "Code" else None  # each is three processes
    for example in chosen.examples("sft")[:few]:
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
        ("[1]", "JSON object.*this is a JSON list"),
        ("7", "JSON object.*this is a JSON int"),
        ("[" * 100_000, "JSON object.*recursion"),
        ('{"question": "q"}', "JSON object.*`answer` is None"),
        ('{"question": null, "answer": "#### 7"}', "JSON object.*`question` is None"),
        ('{"question": 5, "answer": "#### 7"}', "JSON object.*`question` is 5"),
        ('{"question": " ", "answer": "#### 7"}', "JSON object.*`question` is blank"),
        ('{"question": "q", "answer": 7}', "JSON object.*`answer` is 7"),
        ('{"question": "q", "answer": ["#### 7"]}', "JSON object.*`answer` is "),
        ('{"question": "\\ud800", "answer": "#### 7"}', "JSON object.*lone surrogate"),
        ('{"question": "q", "answer": "7"}', "no number after"),
        ('{"question": "q", "answer": "#### "}', "no number after"),
        ('{"question": "q", "answer": "#### seven"}', "'seven' is not one number"),
        ('{"question": "q", "answer": "#### 7 or 8"}', "'7 or 8' is not one number"),
        ('{"question": "q", "answer": "so \\\\boxed{\\\\sqrt{2}}"}', "sqrt.* is not one number"),
        ('{"question": "q", "answer": "#### 1/0"}', "'1/0' is not one number"),
        (b'{"question": "\xff", "answer": "#### 7"}', "is no UTF-8: its byte 15 is 0xff: write the file as UTF-8"),
        ('{"question": "q", "answer": "#### 7", "level": ["hard"]}', "`level` must be a string or a number"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str | bytes, reason: str) -> None:
    """Blank lines count."""
    line = row if isinstance(row, bytes) else row.encode()
    (tmp_path / "p.jsonl").write_bytes(b'{"question": "q", "answer": "#### 7"}\n\n' + line + b"\n")
    with pytest.raises(ConfigError, match=rf"p\.jsonl:3: .*{reason}"):
        Gsm8k(folder=str(tmp_path)).examples("sft")


def test_a_level_is_told_where_there_is_one(tmp_path: Path) -> None:
    levels = ['"Level 5"', "5", "0.5", "null"]
    rows = [f'{{"question": "q{i}", "answer": "#### 7", "level": {level}}}' for i, level in enumerate(levels)]
    (tmp_path / "p.jsonl").write_text("\n".join([*rows, '{"question": "q", "answer": "#### 7"}']))
    found = [example.level for split in SPLITS for example in Gsm8k(folder=str(tmp_path)).examples(split)]
    assert sorted(map(str, found)) == ["0.5", "5", "Level 5", "None", "None"]
    level = {example.prompt: example.level for example in Arithmetic(digits=2).examples("rl")}
    assert set(level.values()) == {"add 1", "add 2", "subtract 1", "subtract 2"}
    assert all(kind == ("add " if "+" in prompt else "subtract ") + kind[-1] for prompt, kind in level.items())


def test_a_broken_gzip_is_named(tmp_path: Path) -> None:
    packed = gzip.compress(b'{"question": "q", "answer": "#### 7"}\n' * 1000)
    for name, content, said in (
        ("cut", packed[:-20], r":\d+: cannot be read on: the gzip data ends before it is whole"),
        ("none", b"plain text\n", ": not gzip, as its name says"),
        ("torn", packed[:40] + b"\0" * 40 + packed[80:], ".*: gzip: "),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.jsonl.gz").write_bytes(content)
        with pytest.raises(ConfigError, match=rf"p\.jsonl\.gz{said}"):
            Gsm8k(folder=str(tmp_path / name)).examples("sft")


def every(folder: Path, **given: str) -> dict[str, list]:
    return {split: Gsm8k(folder=str(folder), **given).examples(split) for split in SPLITS}


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    rows = [json.dumps({"question": f"q{i}", "answer": f"#### {i}"}) for i in range(3)]
    text = "\ufeff" + rows[0] + "\r\n\r\n" + rows[1] + "\n   \n\n\ufeff\ufeff" + rows[2] + "\n\n"
    (tmp_path / "a.jsonl").write_bytes(text.encode())
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    found = [example for examples in every(tmp_path).values() for example in examples]
    lines = {(e.id, e.prompt, e.answer) for e in found}
    assert lines == {
        (f"{n}:{at}", f"q{i}", str(i)) for n in ("a.jsonl", "b.jsonl.gz") for i, at in enumerate((1, 3, 6))
    }


def test_questions_that_differ_in_case_or_space_are_in_one_split(tmp_path: Path) -> None:
    forms = [
        str.upper,
        str.lower,
        lambda q: q.replace(" ", "  "),
        lambda q: f"\n{q}\u00a0",
        lambda q: q.replace("1", "\uff11"),
    ]
    rows = [{"question": form(f"How many are {i} and 1?"), "answer": "#### 2"} for i in range(60) for form in forms]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = every(tmp_path)
    assert sum(map(len, found.values())) == len(rows) and all(found.values())
    assert all(len(examples) % len(forms) == 0 for examples in found.values())
    keys = {split: {normalised(e.prompt) for e in examples} for split, examples in found.items()}
    assert sum(map(len, keys.values())) == 60 == len(set.union(*keys.values()))


def test_a_test_file_is_kept_apart(folder: Path, capsys: pytest.CaptureFixture) -> None:
    """Whole and in its order; what the other files have of it is left out of training, and that is said."""
    with gzip.open(folder / "train.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    given = [{"question": f"Test {i}?", "answer": "#### 1"} for i in range(20)] + [
        {"question": row["question"].upper(), "answer": row["answer"]} for row in rows[:30]
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    found = every(folder, test="test*")
    assert [e.prompt for e in found["test"]] == [row["question"] for row in given]
    trained = {normalised(e.prompt) for split in ("sft", "rl") for e in found[split]}
    assert trained == {normalised(row["question"]) for row in rows[30:]} and found["sft"] and found["rl"]
    assert (
        "problems: 30 questions are also in the files of problems.test, and left out of rl" in capsys.readouterr().err
    )
    for pattern, fits in (("tset*", "none"), ("*", "all")):
        with pytest.raises(
            ConfigError, match=f"problems.test: .* fits {fits} of the files: test.jsonl, train.jsonl.gz"
        ):
            Gsm8k(folder=str(folder), test=pattern).examples("test")


def test_a_gold_answer_that_cannot_be_read_makes_a_score_invalid() -> None:
    assert Gsm8k().score(Example("a", "q", "seven", ""), "#### 7") == Score(0.0, valid=False)


ROWS = "".join(json.dumps({"question": name, "answer": "#### 7"}) + "\n" for name in "abcdefgh")


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        *(("p.jsonl", pack) for pack in (zstandard.compress, bz2.compress)),
        *(("p.jsonl.zst", zstandard.compress), ("p.jsonl.bz2", bz2.compress), ("p.jsonl.xz", lzma.compress)),
        *(
            ("p.jsonl", lambda text, name=name: text.decode().encode(name))
            for name in ("utf-16", "utf-16-be", "utf-32")
        ),
    ],
)
def test_a_file_is_read_however_it_is_packed_and_encoded(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / name).write_bytes(pack(ROWS.encode()))
    assert sorted(e.prompt for examples in every(tmp_path).values() for e in examples) == [*"abcdefgh"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (ROWS.replace("\n", "\r").encode(), "its lines end in carriage returns alone: write them with line feeds"),
        (zstandard.compress(ROWS.encode())[:-5], "the zstd data ends before it is whole"),
        (b"PK\x03\x04 and more", "is a zip archive: unpack it"),
        (b"PAR1 and more", "is Parquet"),
        (gzip.compress(bz2.compress(ROWS.encode())), "is gzip that holds bzip2: unpack it once"),
    ],
)
def test_a_file_of_another_form_is_named_for_what_it_is(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"p\.jsonl: .*{reason}"):
        Gsm8k(folder=str(tmp_path)).examples("sft")


def test_a_folder_with_the_name_of_a_file_is_passed_over(folder: Path) -> None:
    before = Gsm8k(folder=str(folder)).examples("sft")
    (folder / "0.jsonl").mkdir()
    assert Gsm8k(folder=str(folder)).examples("sft") == before


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no .*jsonl"):
        Gsm8k(folder=str(tmp_path)).examples("sft")


def test_numbers_are_compared_as_numbers(folder: Path) -> None:
    gsm8k = Gsm8k(folder=str(folder))
    example = next(e for e in gsm8k.examples("sft") if float(e.answer) >= 1000)
    assert gsm8k.score(example, f"#### {float(example.answer):,.1f}").value == 1
    assert gsm8k.score(example, example.answer).value == 0

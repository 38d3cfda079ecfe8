"""What stands in training: planted problems and documents are found, chance is not, and the two parts make up the whole."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.problems import Arithmetic, Gsm8k
from lm.problems.example import Example, Score
from tasks.core.log import Log
from tasks.core.tables import read_table, write_table
from tasks.evaluate.accuracy import Answer
from tasks.evaluate.contamination import (
    ContaminationTarget,
    bits_apart,
    scores_apart,
    shares,
    split_by_contamination,
    training_texts,
)
from tasks.evaluate.sets import ProblemSet
from tasks.evaluate.stage import EvaluateConfig, run
from tasks.report.paired import labels_of
from tasks.report.read import Stage
from tasks.report.terminal import _of_sets
from tests.evaluate.test_run import TOKENIZER, model_folder

LONG = "How many apples does a farmer have who picks 17 from each of 4 trees and gives away 9?"


def share(text: str, training: list[str], answer: str | None = None) -> float:
    return shares([ContaminationTarget("x", text, answer)], iter([training]))[0]


def test_a_long_question_is_found_whatever_its_white_space_and_case() -> None:
    assert share(LONG, ["before " + LONG.upper().replace(" ", "\n") + " after"], "59") == 1
    assert share(LONG, [LONG[:43], LONG[43:]], "59") == 0, "documents are not joined"
    half = share(LONG, [LONG[: len(LONG) // 2 + 20]], "59")
    assert 0 < half < 0.6
    assert share(LONG, [], "59") == 0


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("47+38=85", 1.0), (" 47 + 38 = 85 ", 1.0), ("47+38=7+8=15 4+3+1=8: 85", 1.0), ("what is 47+38=85", 0.0),
        ("147+38=185", 0.0), ("47+38=86", 0.0), ("47+38=", 0.0), ("47+38=8", 0.0), ("47+38=\n85", 0.0),
    ],
)  # fmt: skip
def test_a_short_question_is_found_as_a_line_with_its_answer(line: str, found: float) -> None:
    assert share("47+38=", ["a\n" + line + "\nb"], "85") == found


def test_a_document_without_an_answer_is_one_gram_where_it_is_short() -> None:
    assert share("a short note", ["here is a short note, too"]) == 1 and share("a short note", ["a long note"]) == 0
    assert share("", ["anything"]) == 0


def test_lines_are_those_that_filter_finds(tmp_path: Path) -> None:
    """The rule of filter's contamination, whose compiled code says of a document the first problem alone."""
    from tasks.filter.engine.compiled_solutions import solved
    from tasks.filter.engine.leaks import Problem, read_tables, write_tables
    from tasks.filter.engine.lowered import lowered

    generator = random.Random(0)
    problems = [(f"{a}+{b}=", str(a + b)) for a in range(15) for b in range(15)]
    lines = []
    for _ in range(60):
        a, b = generator.randrange(15), generator.randrange(15)
        worked = generator.choice(["", "1+1=2: "])
        lines.append(generator.choice(["", "so ", " "]) + f"{a}+ {b}={worked}{a + b}")
        lines.append(f"{a} +{b}={generator.choice(['', 'one '])}{a + generator.randrange(15)}")
    found = shares([ContaminationTarget(text, text, answer) for text, answer in problems], iter([lines]))
    write_tables([Problem(f"test {text}", text, answer) for text, answer in problems], 13, 8, tmp_path)
    _, rows, labels = read_tables(tmp_path / "labels.json")
    rows_N = solved(*lowered(pa.array(lines, pa.large_string())), rows)
    expected = {labels["lines"][row].removeprefix("test ") for row in rows_N if row >= 0}
    assert {text for (text, _), one in zip(problems, found, strict=True) if one} == expected
    assert 10 < len(expected) < len(problems)


@given(st.integers(0, 60), st.integers(1, 40), st.sampled_from([1, 2, 7]))
def test_what_is_found_depends_neither_on_others_nor_on_batches(start: int, length: int, batch: int) -> None:
    generator = random.Random(5)
    words = [f"word{generator.randrange(400)}" for _ in range(300)]
    training = [" ".join(words[n : n + 30]) for n in range(0, 300, 30)]
    text = " ".join(words[start : start + length] + ["other"] * 3)
    others = [ContaminationTarget(str(n), " ".join(words[n : n + 12]), "a") for n in range(0, 100, 9)]
    batches = [training[n : n + batch] for n in range(0, len(training), batch)]
    alone = share(text, training)
    assert shares([*others, ContaminationTarget("x", text)], iter(batches))[-1] == alone
    assert share(text, training[::-1]) == alone


def test_the_parts_by_hand() -> None:
    scores = [Score(1.0), Score(0.0), Score(1.0), Score(1.0, valid=False), Score(0.0)]
    answers = [Answer(Example(str(n), "", "", ""), "", score) for n, score in enumerate(scores)]
    found = scores_apart("a", answers, [True, False, False, True, False])
    assert found["a_contaminated_problems"] == 2 and found["a_contaminated_accuracy"] == 1
    assert found["a_clean_problems"] == 3 and found["a_clean_accuracy"] == pytest.approx(1 / 3)
    assert scores_apart("", answers, [False] * 5)["contaminated_problems"] == 0
    assert "contaminated_accuracy" not in scores_apart("", answers, [False] * 5)
    rows: list[dict[str, Any]] = [
        {"id": str(n), "source": "s", "bytes": 10 * n, "bits": 20.0 * n + n % 2} for n in range(1, 5)
    ]
    told = bits_apart(rows, [True, False, False, True])
    assert told["clean_bits_per_byte"] == 101 / 50 and told["contaminated_bits_per_byte"] == 101 / 50
    assert told["clean_bits_per_byte_low"] <= 101 / 50 <= told["clean_bits_per_byte_high"]
    assert bits_apart(rows, [True] * 4)["clean_documents"] == 0


def test_a_side_is_what_has_more_than_is_borne() -> None:
    answers = [Answer(Example("a", LONG, "59", ""), "", Score(1.0))]
    training = [LONG[: len(LONG) // 2 + 20]]
    exact = share(LONG, training, "59")
    for above, contaminated in ((exact, 0), (exact - 0.01, 1)):
        rows, told = split_by_contamination([("", answers)], [ContaminationTarget("d", LONG)], [{"id": "d", "source": "s", "bytes": 9, "bits": 9.0}],
                                iter([training]), above)  # fmt: skip
        assert told["contaminated_problems"] == contaminated == told["contaminated_documents"]
        assert [(row["kind"], row["id"], row["share"]) for row in rows] == [
            ("problems", "a", exact), ("documents", "d", exact)
        ]  # fmt: skip


def retold(data: Path, texts: dict[str, str]) -> None:
    """data/tokenize of these training documents beside those held out."""
    tokens: list[int] = []
    held = read_table(data / "tokenize/held_out.parquet").to_pylist()
    places: dict[str, list[Any]] = {"id": [], "split": [], "start": [], "length": []}
    for name, text, split in [(n, t, "train") for n, t in texts.items()] + [
        (h["id"], h["text"], "held_out") for h in held
    ]:
        ids = [*TOKENIZER.encode(text), TOKENIZER.eos_id]
        for column, value in zip(places, (name, split, len(tokens), len(ids)), strict=True):
            places[column].append(value)
        tokens += ids
    np.save(data / "tokenize/tokens.npy", np.array(tokens, np.uint16))
    write_table(data / "tokenize/documents.parquet", pa.table(places))


def test_the_stage_tells_the_parts_beside_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = Path("data")
    model_folder(tmp_path / "data")
    (data / "problems/gsm").mkdir(parents=True)
    lines = [f'{{"question": "{LONG} And {n} more?", "answer": "#### {n}"}}\n' for n in range(40)]
    (data / "problems/gsm/a.jsonl").write_text("".join(lines))
    gsm, sums = Gsm8k(folder="data/problems/gsm"), Arithmetic(digits=1).examples("test")[:6]
    leaked = gsm.examples("test")[0]
    worksheet = "\n".join(f"{e.prompt}{e.answer}" for e in sums[:2])
    retold(data, {"t": "text", "u": f"so: {leaked.prompt}", "v": worksheet, "w": "plain text, and then some, and more"})
    assert [text for texts in training_texts(data / "tokenize", TOKENIZER) for text in texts] == [
        "text", f"so: {leaked.prompt}", worksheet, "plain text, and then some, and more"
    ]  # fmt: skip

    def evaluated(**more: Any) -> dict[str, float]:
        config = EvaluateConfig(
            problems=Arithmetic(digits=1), problems_counted=6, max_new_tokens=4, sets=[ProblemSet(problems=gsm)], **more
        )
        return run(config, data, Log(), "rl")

    plain, more = evaluated(), evaluated(max_overlap=0.97)
    assert {name: more[name] for name in plain} == plain and "clean_problems" not in plain
    assert (more["contaminated_problems"], more["clean_problems"]) == (2, 4)
    assert (more["gsm8k_contaminated_problems"], more["gsm8k_clean_problems"]) == (1, plain["gsm8k_problems"] - 1)
    assert (more["contaminated_documents"], more["clean_documents"]) == (1, 2)
    rows = read_table(data / "evaluate/rl/overlap.parquet").to_pylist()
    assert [row["id"] for row in rows if row["contaminated"]] == [sums[0].id, sums[1].id, leaked.id, "b"]
    whole = sum(more[f"{side}_accuracy"] * more[f"{side}_problems"] for side in ("clean", "contaminated"))
    assert whole / 6 == pytest.approx(more["accuracy"])
    assert labels_of(more) == ["gsm8k", "clean", "contaminated", "gsm8k_clean", "gsm8k_contaminated"]
    stage = Stage("evaluate@rl", [], data / "evaluate/rl", current=True, metrics=more)
    assert [row[1] for row in _of_sets([stage], {})[1:]] == [
        *labels_of(more),
        "clean documents",
        "contaminated documents",
    ]

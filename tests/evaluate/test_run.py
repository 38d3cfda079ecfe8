"""The stage on a small model and small files: which problems, which tokens, which bytes, and what has no verdict."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.checkpoint import save_model
from lm.intervals import wilson
from lm.model import Decoder
from lm.problems import Arithmetic, Gsm8k
from lm.problems.example import Example, Score
from tasks.core.log import Log
from tasks.core.tables import read_table, write_table
from tasks.evaluate.accuracy import answer_all
from tasks.evaluate.stage import EvaluateConfig, run
from tests.lm.models import toy_model, toy_tokenizer

TOKENIZER = toy_tokenizer()
# Characters of one, two and three bytes
HELD_OUT = {"b": "plain text, and then some", "a": "déjà vu — naïve", "c": "数"}


def decided() -> Decoder:
    """A model whose greedy answers differ, and are of ASCII: a character is a token. Some end early."""
    model = toy_model(seed=4, context=64)
    with torch.no_grad():
        model.embedding.weight.mul_(8)
        for token in range(261):
            if token != TOKENIZER.end_id and not (TOKENIZER.decode([token]) or "é").isascii():
                model.embedding.weight[token] = 0
    return model


def model_folder(data: Path) -> Decoder:
    """data/rl, a model, and data/tokenize with three held-out documents among others, as the stage before leaves them."""
    model = decided()
    for folder in ("rl", "tokenize", "evaluate/rl"):
        (data / folder).mkdir(parents=True)
    save_model(data / "rl", model, TOKENIZER)
    TOKENIZER.save(data / "tokenize")
    tokens: list[int] = []
    places: dict[str, list[Any]] = {"id": [], "split": [], "start": [], "length": []}
    for name, text in {"t": "text to learn from", **HELD_OUT, "u": "more of it"}.items():
        ids = [*TOKENIZER.encode(text), TOKENIZER.eos_id]
        row = {
            "id": name,
            "split": "held_out" if name in HELD_OUT else "train",
            "start": len(tokens),
            "length": len(ids),
        }
        for column, value in row.items():
            places[column].append(value)
        tokens += ids
    np.save(data / "tokenize/tokens.npy", np.array(tokens, np.uint16))
    write_table(data / "tokenize/documents.parquet", pa.table(places))
    names = list(HELD_OUT)
    held_out = {"id": names, "source": ["web", "web", "book"], "group": names, "text": list(HELD_OUT.values())}
    write_table(data / "tokenize/held_out.parquet", pa.table(held_out))
    return model


def evaluated(data: Path, problems: Any, counted: int = 5) -> dict[str, float]:
    config = EvaluateConfig(problems=Arithmetic(digits=1), problems_counted=counted, max_new_tokens=6)
    return run(config.model_copy(update={"problems": problems}), data, Log(), "rl")


def answers(data: Path) -> list[dict[str, Any]]:
    return read_table(data / "evaluate/rl/answers.parquet").to_pylist()


def test_the_first_problems_of_the_test_split_are_answered(tmp_path: Path) -> None:
    model_folder(tmp_path)
    metrics = evaluated(tmp_path, Arithmetic(digits=1))
    first = Arithmetic(digits=1).examples("test")[:5]
    assert [(a["id"], a["prompt"], a["answer"]) for a in answers(tmp_path)] == [
        (e.id, e.prompt, e.answer) for e in first
    ]
    assert metrics["problems"] == 5
    every = Arithmetic(digits=1).examples("test")
    assert evaluated(tmp_path, Arithmetic(digits=1), 10**6)["problems"] == len(every) == len(answers(tmp_path))


def test_problems_are_those_of_the_folder(tmp_path: Path) -> None:
    model_folder(tmp_path)
    (tmp_path / "problems").mkdir()
    rows = [{"question": f"What is {n}?", "answer": f"#### {n}"} for n in range(60)]
    (tmp_path / "problems/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = Gsm8k(folder=str(tmp_path / "problems"))
    evaluated(tmp_path, problems, 60)
    asked = [a["prompt"] for a in answers(tmp_path)]
    assert asked == [e.prompt for e in problems.examples("test")] and len(asked) > 1
    assert not set(asked) & {e.prompt for split in ("sft", "rl") for e in problems.examples(split)}


def test_bits_are_of_the_text_and_its_end_after_an_end_token(tmp_path: Path) -> None:
    """The token that ends the document before is read and not counted; the one that ends this document counts, for a model must
    say where it ends, as gzip does; but it is no byte."""
    model = model_folder(tmp_path)
    metrics = evaluated(tmp_path, Arithmetic(digits=1))
    rows = {row["id"]: row for row in read_table(tmp_path / "evaluate/rl/bits.parquet").to_pylist()}
    assert list(rows) == list(HELD_OUT)
    for name, text in HELD_OUT.items():
        ids = torch.tensor([TOKENIZER.eos_id, *TOKENIZER.encode(text), TOKENIZER.eos_id])
        with torch.no_grad():
            logps = model(ids[None, :-1])[0].double().log_softmax(-1).gather(1, ids[1:, None])
        assert rows[name]["bits"] == pytest.approx(-logps.sum().item() / math.log(2), rel=1e-5)  # fp32 beside fp64
        assert rows[name]["bytes"] == len(text.encode("utf-8"))
    assert len(HELD_OUT["a"]) < rows["a"]["bytes"]
    total = sum(row["bits"] for row in rows.values())
    assert metrics["bits_per_byte"] == pytest.approx(total / sum(len(text.encode()) for text in HELD_OUT.values()))
    assert metrics["bits_per_byte_book"] == pytest.approx(rows["c"]["bits"] / 3)
    assert metrics["held_out_documents"] == 3


class Judge:
    """Ten problems: four answers right, three wrong, and of three no verdict, whose values must not matter."""

    def __init__(self, unheard: float) -> None:
        self._unheard = unheard

    def examples(self, split: str) -> list[Example]:
        assert split == "test"
        return [Example(str(i), f"problem {i}", str(i), "") for i in range(10)]

    def score(self, example: Example, text: str) -> Score:
        number = int(example.id)
        return Score(float(number < 4)) if number < 7 else Score(self._unheard, valid=False)


@pytest.mark.parametrize("unheard", [0.0, 1.0])
def test_what_has_no_verdict_is_neither_right_nor_wrong(tmp_path: Path, unheard: float) -> None:
    model_folder(tmp_path)
    metrics = evaluated(tmp_path, Judge(unheard), 10)
    low, high = wilson(4, 7)
    expected = {"accuracy": 4 / 7, "accuracy_low": low, "accuracy_high": high, "problems": 10, "invalid": 3}
    assert {name: metrics[name] for name in expected} == expected
    assert [a["valid"] for a in answers(tmp_path)] == [True] * 7 + [False] * 3


def test_without_any_verdict_nothing_is_known(tmp_path: Path) -> None:
    model_folder(tmp_path)
    metrics = evaluated(tmp_path, Nobody(), 10)
    assert [metrics[name] for name in ("accuracy", "accuracy_low", "accuracy_high", "invalid")] == [0, 0, 1, 10]


class Nobody(Judge):
    def __init__(self) -> None:
        super().__init__(1.0)

    def score(self, example: Example, text: str) -> Score:
        return Score(1.0, valid=False)


def test_what_is_measured_of_the_model(tmp_path: Path) -> None:
    model = model_folder(tmp_path)
    metrics = evaluated(tmp_path, Arithmetic(digits=1))
    assert metrics["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert metrics["size_bytes"] == len((tmp_path / "rl/model.safetensors").read_bytes())


class Last(Judge):
    """Right when the answer ends in an odd character, so that a cut answer may be another's verdict."""

    def score(self, example: Example, text: str) -> Score:
        return Score(float(bool(text) and ord(text[-1]) % 2))


MODEL = decided()
# The chat adds two tokens: of the last two, one leaves room for two tokens and one for none
EXAMPLES = [Example(str(n), (f"{n}" * n)[:n], "", "") for n in (1, 2, 5, 12, 13, 14, 15, 30, 60, 62)]
ALONE = {e.id: answer_all(MODEL, TOKENIZER, Last(0), [e], 12, lambda *_: None)[0][0] for e in EXAMPLES}


@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from(EXAMPLES), min_size=1, max_size=150), st.sampled_from([1, 7, 128, 512]))
def test_a_score_depends_on_its_problem_alone(examples: list[Example], batch: int) -> None:
    if batch == 1:
        examples = examples[:5]
    found, _ = answer_all(MODEL, TOKENIZER, Last(0), examples, 12, lambda *_: None, batch)
    assert found == [ALONE[e.id] for e in examples]


def test_a_long_problem_takes_no_room_from_the_others() -> None:
    """The same problems with and without one that leaves room for two tokens."""
    short, long = EXAMPLES[:5], EXAMPLES[-2]
    room = [len(ALONE[e.id].completion) for e in (*short, long)]
    assert len(TOKENIZER.chat(long.prompt)) == 62 and room[-1] <= 2 < max(room[:-1])
    found, _ = answer_all(MODEL, TOKENIZER, Last(0), [*short, long], 12, lambda *_: None)
    assert found == [ALONE[e.id] for e in (*short, long)]

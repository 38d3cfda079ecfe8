"""Evaluation: every byte counted once, intervals by hand, and answers matched to their problems."""

import gzip
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.intervals import wilson
from lm.problems.arithmetic import Arithmetic
from lm.problems.example import Example, Score
from tasks.evaluate.accuracy import answer_all
from tasks.evaluate.bits_per_byte import document_bits, gzip_bits, interval, per_byte, windows_of
from tests.lm.models import toy_model, toy_tokenizer


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.integers(1, 300), st.integers(1, 48))
def test_windows_count_every_token_after_the_first_once(length: int, context: int) -> None:
    ids = torch.arange(length)
    counted = []
    for window in windows_of(0, ids, context):
        assert len(window.ids) <= context + 1
        counted += window.ids[len(window.ids) - window.counted :].tolist()
        before = len(window.ids) - window.counted
        assert before >= min(int(window.ids[before]), context // 4)
    assert counted == list(range(1, length))


def test_bits_equal_the_sum_over_one_document_alone() -> None:
    model = toy_model()
    documents = [torch.arange(n) % 261 for n in (2, 30, 49)]
    for ids, bits in zip(documents, document_bits(model, documents, lambda *_: None, batch=2), strict=True):
        with torch.no_grad():
            logps = model(ids[None, :-1])[0].log_softmax(-1).gather(1, ids[1:, None])
        assert bits == pytest.approx(-logps.sum().item() / math.log(2), rel=1e-5)


def test_gzip_counts_what_gunzip_gives_back() -> None:
    text = "to be or not to be, that is the question " * 9
    assert gzip_bits(text) == 8 * len(gzip.compress(text.encode(), 9)) < 8 * len(text)


def test_per_byte_by_hand() -> None:
    rows = [
        {"id": "0", "source": "a", "bytes": 10, "bits": 20.0, "gzip_bits": 40.0},
        {"id": "1", "source": "b", "bytes": 30, "bits": 30.0, "gzip_bits": 60.0},
        {"id": "2", "source": "c", "bytes": 0, "bits": 0.0, "gzip_bits": 160.0},
    ]
    # one of a source goes with the other: the first twice in a quarter of the draws, the second twice in another
    assert per_byte(rows) == {
        "bits_per_byte": 1.25,
        "gzip_bits_per_byte": 6.5,
        "bits_per_byte_a": 2.0,
        "gzip_bits_per_byte_a": 4.0,
        "bits_per_byte_b": 1.0,
        "gzip_bits_per_byte_b": 2.0,
        "bits_per_byte_low": 1.0,
        "bits_per_byte_high": 2.0,
    }
    assert "bits_per_byte_low" not in per_byte(rows[:1]), "one document says nothing of another"
    assert interval([]) is None and per_byte(rows[2:]) == {}


def documents(seed: int, count: int, source: str = "a", level: float = 1.5) -> list[dict]:
    """Documents of 1000 bytes whose bits vary by a standard deviation of 0.3 a byte."""
    drawn = random.Random(seed)
    return [
        {"id": f"{source}{n}", "source": source, "bytes": 1000, "bits": 1000 * drawn.gauss(level, 0.3)}
        for n in range(count)
    ]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of 300 sets of 60 documents each."""
    covered, wide = 0, 2 * 1.96 * 0.3 / 60**0.5
    for seed in range(300):
        low, high = interval(documents(seed, 60))
        covered += low < 1.5 < high
        assert (
            0.6 * wide < high - low < 1.4 * wide
        )  # a standard deviation of 60 is known to 9%, and percentiles to a few more
    # 95% of 300 is 285, with a standard deviation of 3.8; percentiles of 60 cover about 94%
    assert 285 - 5 * 3.8 < covered <= 285 + 3 * 3.8


def test_sources_keep_their_shares() -> None:
    """Two sources that lie far apart: their mixture is known as well as each of them."""
    rows = documents(0, 60) + documents(1, 60, "b", level=4.0)
    low, high = interval(rows)
    assert high - low < 1.4 * 2 * 1.96 * 0.3 / 120**0.5
    alone = [{"id": "z", "source": "z", "bytes": 1000, "bits": 9000.0}]
    other = [{"id": "y", "source": "y", "bytes": 1000, "bits": 1000.0}]
    for singles in (alone, alone + other):  # one document of a source goes with others, and does not count as known
        wider = interval(rows + singles)
        assert wider[1] - wider[0] > high - low


def test_the_order_of_the_rows_changes_nothing() -> None:
    rows = documents(0, 40) + documents(1, 30, "b")
    shuffled = list(rows)
    random.Random(0).shuffle(shuffled)
    assert interval(shuffled) == interval(rows)


def test_wilson_by_hand() -> None:
    # p = 0.5, n = 100: centre 0.5, half width 1.959964 * sqrt(0.0025 + 3.8415/40000) / 1.038415 = 0.0962
    low, high = wilson(50, 100)
    assert (low, high) == (pytest.approx(0.40383, abs=1e-5), pytest.approx(0.59617, abs=1e-5))
    assert wilson(0, 0) == (0.0, 1.0)
    assert all(wilson(0, n)[0] == 0 and wilson(n, n)[1] == 1 for n in range(1, 3000))


class Recording:
    """A verifier that keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: dict[str, str] = {}

    def score(self, example: Example, text: str) -> Score:
        self.shown[example.id] = text
        return Score(1.0)


def test_answers_belong_to_their_problems_whatever_the_batch() -> None:
    model, tokenizer = toy_model(), toy_tokenizer()
    examples = [*Arithmetic().examples("test")[:9], Example("long", "9" * 60, "9", "9")]
    shown = []
    for batch in (1, 4, 16):
        verifier = Recording()
        answers, _ = answer_all(model, tokenizer, verifier, examples, 6, lambda *_: None, batch)
        assert [a.example for a in answers] == examples and [verifier.shown[a.example.id] for a in answers] == [
            a.completion for a in answers
        ]
        shown.append([a.completion for a in answers])
    assert shown[0] == shown[1] == shown[2] and shown[0][-1] == ""

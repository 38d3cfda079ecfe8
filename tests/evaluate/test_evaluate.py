"""Evaluation: every byte counted once, intervals by hand, and answers matched to their problems."""

import gzip
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.problems.arithmetic import Arithmetic
from lm.problems.example import Example, Score
from tasks.evaluate.accuracy import answer_all, wilson
from tasks.evaluate.bits_per_byte import document_bits, gzip_bits, windows_of
from tasks.evaluate.stage import per_byte
from tests.lm.models import toy_model, toy_tokenizer


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.integers(1, 300), st.integers(1, 24).map(lambda n: 2 * n))
def test_windows_count_every_token_after_the_first_once(length: int, context: int) -> None:
    ids = torch.arange(length)
    counted = []
    for window in windows_of(0, ids, context):
        assert len(window.ids) <= context + 1
        counted += window.ids[len(window.ids) - window.counted :].tolist()
        before = len(window.ids) - window.counted
        assert before >= min(int(window.ids[before]), context // 2)  # half a context of past, where there is one
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
        {"source": "a", "bytes": 10, "bits": 20.0, "gzip_bits": 40.0},
        {"source": "b", "bytes": 30, "bits": 30.0, "gzip_bits": 60.0},
    ]
    assert per_byte(rows) == {
        "bits_per_byte": 1.25,
        "gzip_bits_per_byte": 2.5,
        "bits_per_byte_a": 2.0,
        "gzip_bits_per_byte_a": 4.0,
        "bits_per_byte_b": 1.0,
        "gzip_bits_per_byte_b": 2.0,
    }


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

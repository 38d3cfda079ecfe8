"""A model's expectations at some places of the held-out text, and how far another's are from them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm.problems import Arithmetic
from tasks.core.tables import read_table
from tasks.evaluate import distributions
from tasks.evaluate.bits_per_byte import document_bits
from tasks.evaluate.distributions import BYTES, FILE, Distributions, sample_positions
from tasks.report import divergence as reported
from tasks.report.divergence import divergence, kl, normalised
from tests.evaluate.test_run import HELD_OUT, TOKENIZER, evaluated, model_folder
from tests.lm.models import toy_model


def test_places_by_hand() -> None:
    """Of 1 + 0 + 4 predictions, in documents of 2, 1 and 5 tokens, the middle of each half, and every one."""
    assert sample_positions([2, 1, 5], 2, 100) == [(2, 1), (2, 3)]
    assert sample_positions([2, 1, 5], 99, 100) == [(0, 1), (2, 1), (2, 2), (2, 3), (2, 4)]
    assert sample_positions([2, 1, 5], 0, 100) == [] == sample_positions([1, 1], 9, 100)
    assert len(sample_positions([10**6], 512, 150_000)) == BYTES // 300_000 == 55


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 40))
def test_places_are_tokens_that_are_predicted_each_once(lengths: list[int], most: int) -> None:
    found = sample_positions(lengths, most, 10)
    assert len(set(found)) == len(found) == min(most, sum(lengths) - len(lengths)) and found == sorted(found)
    assert all(1 <= place < lengths[document] for document, place in found)


def test_each_is_what_the_model_says_after_the_tokens_before(tmp_path: Path) -> None:
    """By passes over each document alone; those longer than the context by its last window."""
    model = toy_model(seed=2, context=16).eval()
    documents = [torch.randint(0, 261, (n,), generator=torch.Generator().manual_seed(n)) for n in (5, 40, 1, 17)]
    kept = Distributions(sample_positions([len(ids) for ids in documents], 999, 261), 261)
    bits = document_bits(model, documents, lambda *_: None, 3, kept.collect)
    assert bits == document_bits(model, documents, lambda *_: None, 3)
    spent = np.zeros(4)
    with torch.no_grad():
        for (document, place), row_V in zip(kept.places, kept.logp_KV, strict=True):
            ids = documents[document]
            if place <= 16:
                wanted = model(ids[None, :place])[0, -1].log_softmax(-1).numpy()
                np.testing.assert_allclose(row_V.astype(np.float32), wanted, rtol=1e-3, atol=1e-3)
            spent[document] -= row_V[ids[place]] / np.log(2)
    np.testing.assert_allclose(spent, bits, rtol=1e-3)  # fp16
    kept.write(tmp_path / FILE, list("abcd"), list("ssst"))
    rows = read_table(tmp_path / FILE).to_pylist()
    assert [(row["id"], row["place"]) for row in rows] == [("abcd"[document], place) for document, place in kept.places]
    assert np.array_equal(np.frombuffer(rows[7]["logp"], "<f2"), kept.logp_KV[7])


def test_the_stage_keeps_as_many_as_it_is_asked_for(tmp_path: Path) -> None:
    model_folder(tmp_path)
    evaluated(tmp_path, Arithmetic(digits=1))
    rows = read_table(tmp_path / "evaluate/rl" / FILE).to_pylist()
    tokens = sum(len(TOKENIZER.encode(text)) + 1 for text in HELD_OUT.values())
    assert len(rows) == tokens and {row["source"] for row in rows} == {"web", "book"}
    assert reported.FILE == distributions.FILE


def test_the_divergence_by_hand() -> None:
    """Of 1/2, 1/2 from 1/4, 3/4: ln 2 / 2 + ln(2/3) / 2; of a model from itself nothing."""
    ours, theirs = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    assert kl(ours, theirs)[0] == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    assert kl(theirs, ours)[0] != pytest.approx(kl(ours, theirs)[0]) and kl(ours, ours)[0] == 0
    rounded = normalised(np.log([[0.3, 0.7]]).astype(np.float16))
    assert np.exp(rounded).sum() == pytest.approx(1, abs=1e-12)


def put(folder: Path, logp_KV: np.ndarray, documents: int) -> Path:
    """The distributions of a model, three places a document."""
    folder.mkdir()
    kept = Distributions([(n // 3, 1 + n % 3) for n in range(3 * documents)], logp_KV.shape[1])
    kept.logp_KV[:] = logp_KV
    kept.write(folder / FILE, [f"d{n}" for n in range(documents)], ["ab"[n % 2] for n in range(documents)])
    return folder


def test_it_is_the_mean_over_places_with_an_interval_over_documents(tmp_path: Path) -> None:
    draw = np.random.Generator(np.random.Philox(key=1))
    ours, theirs = (np.log(draw.dirichlet(np.ones(7), 60)) for _ in range(2))
    one, other = put(tmp_path / "one", ours, 20), put(tmp_path / "other", theirs, 20)
    found = divergence(one, other)
    assert found is not None and found.count == 20
    assert found.mean == pytest.approx(kl(ours, theirs).mean(), rel=2e-3)  # fp16
    assert 0 < found.low < found.mean < found.high < 3 * found.mean
    same = divergence(one, one)
    assert same is not None and (same.mean, same.low, same.high) == (0, 0, 0)


def test_what_cannot_be_compared_is_told_of_nothing(tmp_path: Path) -> None:
    flat = np.log(np.full((60, 7), 1 / 7))
    one = put(tmp_path / "one", flat, 20)
    (tmp_path / "none").mkdir()
    assert divergence(one, tmp_path / "none") is None
    wider = put(tmp_path / "wider", np.log(np.full((60, 9), 1 / 9)), 20)
    elsewhere = put(tmp_path / "elsewhere", flat[:57], 19)
    few = put(tmp_path / "few", flat[:27], 9)
    assert divergence(one, wider) is None and divergence(one, elsewhere) is None and divergence(few, few) is None

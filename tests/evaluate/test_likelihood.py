"""Likelihoods of what may follow a text: by hand, the same bits in any company, and what does not fit."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.mixers import SlidingWindow
from lm.model import Decoder
from tasks.evaluate.likelihood import LikelihoodRequest, log_likelihoods
from tests.lm.models import toy_model

CONTEXT = 64
MODELS = {
    "attention": lambda: toy_model(seed=2, context=CONTEXT),
    "window": lambda: toy_model(seed=2, context=CONTEXT, mixer=SlidingWindow(window=16)),
}


def silent(done: int, total: int, unit: str) -> None:
    assert 0 < done <= total and unit == "question"


def ids(count: int, seed: int) -> list[int]:
    return [random.Random(seed + 31 * place).randrange(5, 261) for place in range(count)]


@torch.no_grad()
def by_hand(model: Decoder, text: list[int], following: list[int]) -> float:
    """Nats of a whole sequence in one pass, what is too long cut from the left."""
    whole = (text + following)[-(CONTEXT + 1) :]
    logp = model(torch.tensor([whole[:-1]]))[0].double().log_softmax(-1)
    start = len(whole) - len(following)
    return sum(logp[place - 1, whole[place]].item() for place in range(start, len(whole)))


def questions() -> list[LikelihoodRequest]:
    """Texts of many lengths, some that share a beginning, what follows of one token and of many."""
    shots = ids(20, 1)
    found = [
        LikelihoodRequest(ids(length, length), [ids(count, 100 + count + length) for count in (1, 2, 3, 9)])
        for length in (1, 7, 16, 33)
    ]
    found += [
        LikelihoodRequest(shots + ids(length, 50 + length), [ids(1, 7), ids(12, 8)], 20) for length in (1, 3, 17, 20)
    ]
    long = [
        LikelihoodRequest(ids(62, 3), [ids(2, 1), ids(3, 2), ids(1, 3)]),
        LikelihoodRequest(ids(90, 4), [ids(4, 5), ids(2, 6)]),
    ]
    return [*found, *long]


@pytest.mark.parametrize("kind", MODELS)
def test_by_hand(kind: str) -> None:
    model, asked = MODELS[kind](), questions()
    found = log_likelihoods(model, asked, silent)
    for one, values in zip(asked, found, strict=True):
        expected = [by_hand(model, one.text, following) for following in one.following]
        # fp32 sums of another shape, over up to 12 tokens
        assert values == pytest.approx(expected, abs=2e-4)


@settings(deadline=None, max_examples=10, derandomize=True)
@given(st.permutations(range(10)), st.integers(1, 10))
def test_the_same_bits_in_any_company(order: list[int], count: int) -> None:
    model, asked = MODELS["attention"](), questions()
    alone = [log_likelihoods(model, [one], silent)[0] for one in asked]
    some = order[:count]
    assert log_likelihoods(model, [asked[place] for place in some], silent) == [alone[place] for place in some]


def test_the_same_bits_where_a_product_of_few_rows_has_others() -> None:
    """Of a width and a vocabulary at which MKL divides products of few rows otherwise."""
    model = toy_model(seed=2, context=CONTEXT, width=256, heads=4, vocab_size=8192)
    asked = [LikelihoodRequest(ids(10, place), [ids(1, place), ids(2, place + 1), ids(5, place)]) for place in range(6)]
    together = log_likelihoods(model, asked, silent)
    assert together == [log_likelihoods(model, [one], silent)[0] for one in asked]


def test_more_than_are_read_together() -> None:
    model = MODELS["attention"]()
    asked = [
        LikelihoodRequest(ids(12, place), [ids(3, place), ids(4, place + 1), ids(2, place)] * 4) for place in range(37)
    ]
    found = log_likelihoods(model, asked, silent)
    assert found == [log_likelihoods(model, [one], silent)[0] for one in asked]
    assert found[30] == pytest.approx([by_hand(model, asked[30].text, each) for each in asked[30].following], abs=2e-4)


def test_a_shared_beginning_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, lengths = MODELS["attention"](), []
    hidden = Decoder.hidden

    def counted(self: Decoder, ids_BT: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        lengths.append(tuple(ids_BT.shape))
        return hidden(self, ids_BT, *rest, **more)

    monkeypatch.setattr(Decoder, "hidden", counted)
    shots = ids(40, 1)
    log_likelihoods(
        model,
        [LikelihoodRequest(shots + ids(5 + place % 2 * 14, place), [[7], [8]], 40) for place in range(40)],
        silent,
    )
    assert lengths == [(1, 40), (16, 16), (16, 16), (16, 24), (16, 24)]


@settings(deadline=None, max_examples=15, derandomize=True)
@given(st.integers(1, 40), st.lists(st.integers(1, 20), min_size=1, max_size=6), st.sampled_from(sorted(MODELS)))
def test_sharing_examples_changes_no_score(shots: int, questions: list[int], kind: str) -> None:
    """What is read once for all questions gives what reading it with each gives, but for the last bits."""
    model, beginning = MODELS[kind](), ids(shots, 11)
    texts = [beginning + ids(length, 200 + place) for place, length in enumerate(questions)]
    following = [ids(1, 7), ids(4, 8), ids(2, 9)]
    shared = log_likelihoods(model, [LikelihoodRequest(text, following, shots) for text in texts], silent)
    apart = log_likelihoods(model, [LikelihoodRequest(text, following) for text in texts], silent)
    for one, other in zip(shared, apart, strict=True):
        assert one == pytest.approx(other, abs=2e-4)  # fp32 sums of another shape, over up to 4 tokens

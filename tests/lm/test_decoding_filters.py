"""Filters on what may be drawn: by hand, beside transformers, and in what is drawn."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import MinPLogitsWarper, TemperatureLogitsWarper, TopPLogitsWarper

from lm.strategies import Sample
from lm.strategies.filters import filtered, near_the_likeliest, nucleus
from tests.lm.strategies import MODEL, asked

# shares of 1/16, 8/16, 1/16, 4/16, 2/16
LOGITS = torch.tensor([[1.0, 8.0, 1.0, 4.0, 2.0]]).log()


@pytest.mark.parametrize(
    ("share", "kept"),
    [
        (0.01, [1]),
        (0.49, [1]),
        (0.51, [1, 3]),
        (0.74, [1, 3]),
        (0.76, [1, 3, 4]),
        (0.876, [0, 1, 3, 4]),  # of equals the lowest id
        (0.94, [0, 1, 2, 3, 4]),
        (1.0, [0, 1, 2, 3, 4]),
    ],
)
def test_the_nucleus_by_hand(share: float, kept: list[int]) -> None:
    assert nucleus(LOGITS, share)[0].nonzero()[:, 0].tolist() == kept


@pytest.mark.parametrize(
    ("share", "kept"), [(0.99, [1]), (0.51, [1]), (0.49, [1, 3]), (0.24, [1, 3, 4]), (0.12, [0, 1, 2, 3, 4])]
)
def test_near_the_likeliest_by_hand(share: float, kept: list[int]) -> None:
    assert near_the_likeliest(LOGITS, share)[0].nonzero()[:, 0].tolist() == kept


def test_the_temperature_comes_first() -> None:
    # at temperature 1/2 shares are 1, 64, 1, 16, 4 of 86: 0.74, 0.19, 0.05
    for temperature, top_p, min_p, kept in (
        (1.0, 0.7, 0.0, 2),
        (0.5, 0.7, 0.0, 1),
        (1.0, 1.0, 0.2, 3),
        (0.5, 1.0, 0.2, 2),
    ):
        found = filtered(LOGITS, temperature, top_p, min_p)
        assert int(found.isfinite().sum()) == kept and torch.equal(found[found.isfinite()], LOGITS[found.isfinite()])
    assert torch.equal(filtered(LOGITS, 0.5, 1.0, 0.0), LOGITS)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**30), st.integers(2, 300), st.floats(0.05, 0.999), st.floats(0.001, 0.9), st.floats(0.2, 3.0))
def test_as_transformers(seed: int, size: int, top_p: float, min_p: float, temperature: float) -> None:
    logits = torch.randn(5, size, generator=torch.Generator().manual_seed(seed)) * 3
    theirs, none = logits, torch.zeros(5, 1, dtype=torch.int64)
    for warper in (TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p), MinPLogitsWarper(min_p)):
        theirs = warper(none, theirs)
    ours = filtered(logits, temperature, top_p, min_p)
    differ = ours.isfinite() != theirs.isfinite()
    # they add up in fp32 from the least likely on: a token whose share ends within its rounding of top_p may be told otherwise
    probs = (logits.double() / temperature).softmax(-1)
    ends = (probs[:, None] * (probs[:, None] > probs[..., None])).sum(-1)
    edges = ((ends - top_p).abs() < 1e-5) | ((probs / probs.amax(-1, keepdim=True) - min_p).abs() < 1e-5)
    assert not (differ & ~edges).any()
    assert torch.equal(ours[ours.isfinite()], logits[ours.isfinite()]) and ours.isfinite().any(-1).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**30), st.floats(0.05, 1.0), st.floats(0.0, 0.9))
def test_a_row_is_filtered_alone(seed: int, top_p: float, min_p: float) -> None:
    logits = torch.randn(9, 50, generator=torch.Generator().manual_seed(seed))
    whole = filtered(logits, 0.8, top_p, min_p)
    assert torch.equal(whole[4:5], filtered(logits[4:5], 0.8, top_p, min_p))


@pytest.mark.parametrize(("top_p", "min_p"), [(0.5, 0.0), (1.0, 0.3), (0.7, 0.1)])
def test_nothing_else_is_drawn_and_log_probabilities_are_of_that_draw(top_p: float, min_p: float) -> None:
    prompts = [[5, place] for place in range(30)]
    strategy, seen, outside = Sample(temperature=2.0, top_p=top_p, min_p=min_p), 0, 0
    plain = Sample(temperature=2.0).sample_completions(MODEL, asked(prompts), 1)
    for prompt, (found,), (free,) in zip(
        prompts, strategy.sample_completions(MODEL, asked(prompts), 1), plain, strict=True
    ):
        for ids, logps in ((found.ids, found.logps), (free.ids, None)):
            with torch.no_grad():
                logits = MODEL(torch.tensor([prompt + ids]))[0, len(prompt) - 1 : -1]
            left = filtered(logits, 2.0, top_p, min_p)
            own = (left / 2.0).log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
            if logps is None:
                outside += int(own.isinf().sum())
            else:
                torch.testing.assert_close(torch.tensor(logps), own, rtol=0, atol=1e-4)
                seen += len(ids)
    assert seen > 100 and outside > 20, "without the filters other tokens are drawn"


def test_a_nucleus_of_next_to_nothing_is_greedy() -> None:
    for settings_ in ({"top_p": 1e-6}, {"min_p": 0.999999}):
        found = Sample(temperature=3.0, **settings_)(MODEL, asked())
        assert [f.ids for f in found] == [f.ids for f in Sample(temperature=1e-6)(MODEL, asked())]

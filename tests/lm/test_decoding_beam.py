"""Beam search: against all answers there are, and step by step by hand."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.model import Decoder
from lm.strategies import Beam
from lm.strategies.base import PromptBatch
from lm.strategies.beam import _Group, length_penalty
from tests.lm.models import toy_model

STOP, TOKENS = 2, 5


class Stops:
    """A tokenizer as far as a search asks for one."""

    end_id = STOP


def small(seed: int) -> Decoder:
    """A model of so few tokens that all answers can be tried."""
    model = toy_model(seed=seed, vocab_size=TOKENS, width=16, context=32, tied=False)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(5)
    return model


def searched(model: Decoder, prompts: list[list[int]], most: int, **settings: float) -> list[list[int]]:
    given = PromptBatch(Stops(), prompts, [str(prompt) for prompt in prompts], most)  # type: ignore[arg-type]
    return [found.ids for found in Beam(**settings)(model, given)]  # type: ignore[arg-type]


def logp_of(model: Decoder, prompt: list[int], ids: list[int]) -> float:
    """Log-probability of an answer, without a cache."""
    with torch.no_grad():
        logps = model(torch.tensor([prompt + ids]))[0, len(prompt) - 1 : -1].double().log_softmax(-1)
    return logps.gather(1, torch.tensor(ids)[:, None]).sum().item()


def plainly(model: Decoder, prompt: list[int], most: int, beams: int, alpha: float) -> list[int]:
    """The same search for one prompt over lists, every answer read anew."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, list[int]]] = []
    for _ in range(most):
        found = [(logp_of(model, prompt, [*ids, t]), [*ids, t]) for _, ids in live for t in range(TOKENS)]
        found.sort(key=lambda one: -one[0])
        ended += [one for one in found[:beams] if one[1][-1] == STOP]
        live = [one for one in found if one[1][-1] != STOP][:beams]
        if len(ended) >= beams:
            break
    return max(ended or live, key=lambda one: one[0] / ((5 + len(one[1])) / 6) ** alpha)[1]


def test_the_length_penalty_by_hand() -> None:
    assert length_penalty(1, 0.7) == 1.0 and length_penalty(9, 0.0) == 1.0
    assert length_penalty(7, 1.0) == 2.0 and length_penalty(19, 0.5) == 2.0


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_of_beams_for_all_answers_the_best_is_found(alpha: float) -> None:
    """Beside every answer that ends within four tokens: of 4^3 beginnings none is ever left out."""
    others = [token for token in range(TOKENS) if token != STOP]
    every = [[*ids, STOP] for length in range(4) for ids in itertools.product(others, repeat=length)]
    prompts, lengths = [[1, 3], [4], [0, 0, 1]], set()
    for seed in (1, 2, 3):
        model = small(seed)
        for prompt, found in zip(prompts, searched(model, prompts, 4, beams=100, alpha=alpha), strict=True):
            best = max(every, key=lambda ids: logp_of(model, prompt, ids) / ((5 + len(ids)) / 6) ** alpha)
            assert found == best
            lengths.add(len(found))
    assert alpha == 0 or len(lengths) > 1


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 50), st.integers(1, 4), st.integers(1, 6), st.sampled_from([0.0, 0.6, 1.5]))
def test_a_search_over_rows_is_the_search_over_lists(seed: int, beams: int, most: int, alpha: float) -> None:
    model, prompts = small(seed), [[1], [3, 4], [0, 2, 1, 1]]
    found = searched(model, prompts, most, beams=beams, alpha=alpha)
    assert found == [plainly(model, prompt, most, beams, alpha) for prompt in prompts]


def test_longer_answers_are_preferred_where_length_counts() -> None:
    lengths = {0.0: 0, 3.0: 0}
    for seed in range(8):
        for alpha in lengths:
            lengths[alpha] += sum(map(len, searched(small(seed), [[1], [3], [4]], 8, beams=4, alpha=alpha)))
    assert lengths[0.0] < lengths[3.0]


def test_a_step_by_hand() -> None:
    """Two beams. Token 2 ends; of four candidates the second ends, the fourth is not needed."""
    group = _Group(budget=5)
    assert group.step([(-1.0, 0, 7), (-1.5, 0, STOP), (-2.0, 0, 8), (-2.5, 0, 9)], 2, 1.0, STOP) == [0, 0]
    assert group.live == [[7], [8]] and group.scores == [-1.0, -2.0] and group.ended == [(-1.5, [STOP])]
    # the end at the third place is not among the first two
    assert group.step([(-1.2, 1, 5), (-1.3, 0, 6), (-1.4, 0, STOP), (-9.0, 1, STOP)], 2, 1.0, STOP) == [1, 0]
    assert group.live == [[8, 5], [7, 6]] and len(group.ended) == 1 and not group.done
    assert group.step([(-1.6, 0, STOP), (-1.7, 0, 4), (-math.inf, 1, 3), (-math.inf, 1, 4)], 2, 1.0, STOP) == [0]
    assert group.done and group.steps == 3
    # -1.5 / (6 / 6) against -1.6 / (8 / 6) = -1.2
    assert group.best(1.0) == [8, 5, STOP]


def test_where_nothing_ends_the_best_that_was_cut() -> None:
    group = _Group(budget=1)
    group.step([(-1.0, 0, 7), (-1.5, 0, 8)], 1, 0.6, STOP)
    assert group.done and group.best(0.6) == [7]


def test_what_it_took() -> None:
    model = small(1)
    (found,) = Beam(beams=3)(model, PromptBatch(Stops(), [[1, 3]], [""], 4))  # type: ignore[arg-type]
    assert found.tokens == 3 * found.passes and found.passes >= len(found.ids)

"""What fine-tuning reads, and in which order: sources by their weights, orders, packing, and tokens that are hidden."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import Config, methods_of
from lm.training.data.conversations import Conversation, collate, hidden_at, pack, places, sample_indices
from tasks.core.config import ConfigError
from tasks.sft import corruptions, orders
from tasks.sft.corruptions import MaskedThought, Neftune, Untouched
from tasks.sft.corruptions.neftune import uniform_noise
from tasks.sft.orders import Ascending, Shuffled
from tests.lm.models import toy_model

ORDERS = [Shuffled(), Ascending(by="level"), Ascending(by="length")]
ORDERS += [method() for method in methods_of(orders) if method not in {Shuffled, Ascending}]
LENGTHS = st.lists(st.integers(2, 12), min_size=1, max_size=12)


def conversation(length: int, seed: int) -> Conversation:
    ids = torch.randint(5, 261, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    prompt = 1 + seed % (length - 1)
    return Conversation(ids[:prompt], ids[prompt:], [1.0, 0.5, 0.0][seed % 3 :][:1] * (length - prompt))


@pytest.mark.parametrize("order", ORDERS, ids=repr)
def test_every_pass_has_every_conversation_once(order: Config) -> None:
    lengths, levels = np.arange(7) % 3, -(np.arange(7.0) % 4)
    found = order(lengths, levels, 17, 3)
    assert sorted(found[:7]) == sorted(found[7:14]) == list(range(7)) and len(found) == 17
    assert not np.array_equal(found[:7], found[7:14]), "each pass has an order of its own"
    assert np.array_equal(order(lengths, levels, 9, 3), found[:9])
    assert not np.array_equal(order(lengths, levels, 17, 4), found)
    if isinstance(order, Ascending):
        keys = levels if order.by == "level" else lengths
        assert all(keys[a] <= keys[b] for a, b in pairwise(found[:7])) and keys[found[6]] > keys[found[7]]


def test_the_default_order_is_that_of_all_stages() -> None:
    picks = [i for step in range(5) for i in sample_indices(step, 4, 9, 2)]
    assert Shuffled()(np.ones(9), np.ones(9), 20, 2).tolist() == picks


def test_levels_must_be_there() -> None:
    with pytest.raises(ConfigError, match="1 of 3 conversations have no number in the field `level`"):
        Ascending()(np.ones(3), np.array([1, math.nan, 2]), 3, 0)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(lengths=LENGTHS, multiple=st.sampled_from([1, 2, 4]))
def test_packing_loses_nothing_and_cuts_nothing(lengths: list[int], multiple: int) -> None:
    given = [conversation(n, i) for i, n in enumerate(lengths)]
    packed = pack(given, 0, 16, multiple)
    rows, N = packed.ids_BN.shape
    T, bounds = N - 1, packed.bounds.tolist()
    assert N <= 16 and bounds[-1] == rows * T and (rows % multiple == 0 or rows == len(given))
    found = {}
    for begin, end in pairwise(bounds):
        row, column = divmod(begin, T)
        owner = int(packed.owners_BT[row, column])
        n = len(given[owner])
        found[owner] = packed.ids_BN[row, column : column + n].tolist()
        _, mask = collate([given[owner]], 0)
        assert torch.equal(packed.mask_BT[row, column : column + n - 1], mask[0])
        assert not packed.mask_BT[row, column + n - 1 : end - row * T].any(), (
            "no prediction from one conversation to another"
        )
        assert (packed.owners_BT.flatten()[begin:end] == owner).all()
    assert found == {i: c.prompt + c.completion for i, c in enumerate(given)}


def test_packed_conversations_see_only_themselves() -> None:
    """The hidden states of what counts, in rows of their own and packed."""
    model, given = toy_model(), [conversation(n, 3 * i) for i, n in enumerate((9, 4, 12, 5, 7))]
    ids, mask = collate(given, 0)
    packed = pack(given, 0, 20)
    assert len(packed.ids_BN) == 2
    alone = hidden_at(model, ids[:, :-1], places(mask))
    at = places(packed.mask_BT)
    together = hidden_at(model, packed.ids_BN[:, :-1], at, packed.bounds)
    owners = packed.owners_BT.flatten()[at]
    by_owner = torch.cat([together[owners == number] for number in range(5)])
    torch.testing.assert_close(by_owner, alone, rtol=1e-5, atol=1e-5)  # rotary positions count on along a row


def test_a_conversation_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="a conversation of 9 tokens for rows of 8"):
        pack([conversation(9, 0)], 0, 8)


def step_of(method: Config, step: int, steps: int = 30, seed: int = 0) -> torch.Tensor:
    ids, mask = collate([conversation(40, 3), conversation(25, 6)], 0)
    return method(ids[:, :-1], mask, 1, seed, step, steps)


@pytest.mark.parametrize("method", methods_of(corruptions), ids=lambda method: method.__name__)
def test_a_corruption_leaves_prompts_and_follows_from_seed_and_step(method: type[Config]) -> None:
    ids, mask = collate([conversation(40, 3), conversation(25, 6)], 0)
    before, found = ids.clone(), step_of(method(), 25)
    assert torch.equal(ids, before) and found.shape == mask.shape
    answer = torch.zeros_like(mask, dtype=torch.bool)
    answer[:, 1:] = mask[:, :-1] > 0
    assert torch.equal(found[~answer], ids[:, :-1][~answer])
    assert torch.equal(step_of(method(), 25), found)
    if method not in (Untouched, Neftune):  # Neftune leaves the tokens as they are
        assert not torch.equal(step_of(method(), 26), found) and not torch.equal(step_of(method(), 25, seed=1), found)


def test_thoughts_are_hidden_by_a_share_that_grows() -> None:
    ids, mask = torch.full((50, 41), 9), torch.ones(50, 40)
    shares = [
        (MaskedThought(share=0.4, warmup=0.5)(ids[:, :-1], mask, 1, 0, step, 40) == 1).float().mean().item()
        for step in range(40)
    ]
    assert shares[0] == 0
    for step in (5, 10, 20, 30):  # of 1,950 tokens: 4 standard deviations are 0.045
        assert shares[step] == pytest.approx(0.4 * min(1, step / 20) * 39 / 40, abs=0.045)
    assert (MaskedThought(warmup=0)(ids[:, :-1], mask, 1, 0, 0, 40) == 1).float().mean() > 0.3


def test_noise_is_of_a_rows_place_and_the_conversations_length() -> None:
    lengths = torch.tensor([[16] * 4 + [64] * 4, [4] * 8])
    whole = uniform_noise(lengths, 32, 5.0, 6, 1, 2)
    assert torch.equal(
        torch.cat([uniform_noise(lengths[:1], 32, 5.0, 6, 1, 2), uniform_noise(lengths[1:], 32, 5.0, 7, 1, 2)]), whole
    )
    for seed, step, first in ((2, 2, 6), (1, 3, 6), (1, 2, 7)):
        assert not torch.equal(uniform_noise(lengths, 32, 5.0, first, seed, step), whole)
    for place, length in ((whole[0, :4], 16), (whole[0, 4:], 64), (whole[1], 4)):
        bound = 5 / math.sqrt(length * 32)
        # of at least 128 draws the largest is within a tenth of the bound but once in 10^5
        assert 0.9 * bound < place.abs().max() <= bound and abs(place.mean()) < bound / 4
    assert Untouched().noise(lengths, 32, 0, 0, 0) is None and Neftune().noise(lengths, 32, 6, 1, 2).equal(whole)

"""Advantages: what every one of them must do, and small cases worked by hand. G problems, S samples of each."""

from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lm.config import Config, methods_of
from tasks.rl import advantages
from tasks.rl.advantages import BestAndWorst, BestOfK, Grpo, Remax, Rloo
from tasks.rl.advantages.base import rewards_differ

EVERY = pytest.mark.parametrize("method", methods_of(advantages), ids=lambda method: method.__name__)
quick = settings(deadline=None, max_examples=25, derandomize=True)
NAN = torch.nan
# Rewards up to 10 with float32's 6e-8, over a standard deviation of at least 0.1 in these groups.
ATOL = 1e-4


def group_of(seed: int, groups: int, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """rewards_GS in tenths, mask_GS and greedy_G."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randint(0, 20, (groups, samples), generator=generator) / 10
    mask = (torch.rand(groups, samples, generator=generator) < 0.8).float()
    return rewards, mask, torch.randint(0, 20, (groups,), generator=generator) / 10


sizes = {"seed": st.integers(0, 1000), "groups": st.integers(1, 4), "samples": st.integers(1, 9)}


@EVERY
@quick
@given(**sizes, shift=st.integers(-8, 8))
def test_a_reward_for_everyone_changes_nothing(
    method: type[Config], seed: int, groups: int, samples: int, shift: int
) -> None:
    rewards, mask, greedy = group_of(seed, groups, samples)
    moved = method()(rewards + shift, mask, greedy + shift)
    torch.testing.assert_close(method()(rewards, mask, greedy), moved, rtol=0, atol=ATOL)


@EVERY
@quick
@given(**sizes)
def test_invalid_samples_get_nothing_and_change_nothing(
    method: type[Config], seed: int, groups: int, samples: int
) -> None:
    rewards, mask, greedy = group_of(seed, groups, samples)
    plain = method()(rewards, mask, greedy)
    spoiled = method()(torch.where(mask > 0, rewards, NAN), mask, greedy)
    assert plain.shape == rewards.shape and (plain[mask == 0] == 0).all()
    assert torch.equal(plain, spoiled)


@EVERY
@quick
@given(**sizes)
def test_better_answers_get_more(method: type[Config], seed: int, groups: int, samples: int) -> None:
    rewards, _, greedy = group_of(seed, groups, samples)
    result = method()(rewards, torch.ones_like(rewards), greedy)
    for row, values in zip(rewards, result, strict=True):
        better_SS = row[:, None] > row
        assert (values[:, None] - values)[better_SS].ge(-ATOL).all()


@EVERY
@quick
@given(**sizes)
def test_problems_do_not_touch_each_other(method: type[Config], seed: int, groups: int, samples: int) -> None:
    rewards, mask, greedy = group_of(seed, groups, samples)
    together = method()(rewards, mask, greedy)
    alone = torch.cat([method()(rewards[g : g + 1], mask[g : g + 1], greedy[g : g + 1]) for g in range(groups)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


@EVERY
def test_a_group_without_valid_samples_is_zero(method: type[Config]) -> None:
    assert torch.equal(method()(torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2)), torch.zeros(2, 3))


def test_grpo_by_hand() -> None:
    # Valid rewards 1, 0, 0, 1: mean 0.5, standard deviation 0.5; the fifth does not count.
    rewards, mask = torch.tensor([[1.0, 0.0, 0.0, 1.0, 9.0]]), torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0]])
    expected = torch.tensor([[1.0, -1.0, -1.0, 1.0, 0.0]])
    torch.testing.assert_close(Grpo(eps=1e-9)(rewards, mask), expected)
    torch.testing.assert_close(Grpo(eps=0.5)(rewards, mask), expected / 2)
    torch.testing.assert_close(Grpo(normalise_std=False)(rewards, mask), expected / 2)


@pytest.mark.parametrize("reward", [0.1, 0.3, 0.7, 1.2])
@pytest.mark.parametrize(
    "method", [Grpo(), Grpo(normalise_std=False), Rloo(), BestOfK(), BestAndWorst(), Remax()], ids=lambda m: repr(m)
)
def test_equal_rewards_give_exactly_nothing(method: Config, reward: float) -> None:
    """None of these has an exact float: what a mean of them is off by must be no advantage. One of the second group is
    invalid, and earned more; the third has one that is valid."""
    for samples in (7, 8):
        rewards, mask = torch.full((3, samples), reward), torch.ones(3, samples)
        rewards[1:, -1], mask[1:, -1], mask[2, 1:] = 9.0, 0.0, 0.0
        assert not method(rewards, mask, torch.full((3,), reward)).any()


@quick
@given(seed=st.integers(0, 1000), samples=st.integers(2, 16))
def test_rewards_that_are_not_the_same_are_told_apart(seed: int, samples: int) -> None:
    """By one step of float32 even."""
    rewards, _, _ = group_of(seed, 3, 1)
    rewards = rewards.expand(3, samples).clone()
    assert not rewards_differ(rewards, torch.ones_like(rewards)).any()
    rewards[1, seed % samples] = torch.nextafter(rewards[1, 0], torch.tensor(9.0))
    assert rewards_differ(rewards, torch.ones_like(rewards)).tolist() == [False, True, False]
    assert not rewards_differ(rewards, torch.zeros_like(rewards)).any()


def test_grpo_sums_to_zero_in_each_group() -> None:
    rewards, mask, _ = group_of(1, 5, 8)
    torch.testing.assert_close(Grpo()(rewards, mask).sum(1), torch.zeros(5), rtol=0, atol=1e-5)


def test_remax_by_hand() -> None:
    # The second problem's greedy answer could not be scored.
    rewards, mask = torch.tensor([[1.0, 0.0, 0.5], [1.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    result = Remax()(rewards, mask, torch.tensor([0.25, NAN]))
    assert result.tolist() == [[0.75, -0.25, 0.0], [0.0, 0.0, 0.0]]


def test_remax_says_that_it_needs_the_greedy_rewards() -> None:
    assert Remax.baseline == "greedy" and Grpo.baseline == "none"
    with pytest.raises(ValueError, match="greedy answer"):
        Remax()(torch.ones(1, 1), torch.ones(1, 1))


def test_rloo_by_hand() -> None:
    # Valid rewards 3, 0, 0: the others' means are 0, 1.5, 1.5; the fourth does not count. A single sample has no baseline.
    rewards, mask = (
        torch.tensor([[3.0, 0.0, 0.0, 9.0], [1.0, 9.0, 9.0, 9.0]]),
        torch.tensor([[1.0, 1, 1, 0], [1, 0, 0, 0]]),
    )
    assert Rloo()(rewards, mask).tolist() == [[3.0, -1.5, -1.5, 0.0], [0.0, 0.0, 0.0, 0.0]]


def test_rloo_is_dr_grpo_by_how_many_are_valid() -> None:
    rewards, mask, _ = group_of(3, 6, 8)
    valid = mask.sum(1, keepdim=True)
    expected = Grpo(normalise_std=False)(rewards, mask) * valid / (valid - 1)
    torch.testing.assert_close(Rloo()(rewards, mask), expected)


def test_best_and_worst_by_hand() -> None:
    # The best and the worst that count are 2 and 0, each the first of its kind; the next groups have nothing to tell apart.
    rewards = torch.tensor([[0.0, 2.0, 9.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0, 9.0], [1.0, 9.0, 9.0, 9.0, 9.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]])
    expected = [[-1.0, 1.0, 0.0, 0.0, 0.0], [0.0] * 5, [0.0] * 5]
    assert BestAndWorst()(rewards, mask).tolist() == expected


@quick
@given(**sizes)
def test_best_and_worst_is_a_pair_or_nothing(seed: int, groups: int, samples: int) -> None:
    rewards, mask, _ = group_of(seed, groups, samples)
    for row, kept, values in zip(rewards, mask > 0, BestAndWorst()(rewards, mask), strict=True):
        told = bool(kept.any() and row[kept].max() > row[kept].min())
        assert values.abs().sum() == 2 * told and values.sum() == 0
        if told:
            assert row[values.argmax()] == row[kept].max() and row[values.argmin()] == row[kept].min()


def test_best_of_k_by_hand() -> None:
    # Pairs of the valid 3, 1, 0: 3 adds 2 beside 1 and 3 beside 0, 1 adds 1 beside 0; three pairs. Two valid are too few for k = 3.
    rewards, mask = torch.tensor([[1.0, 9.0, 3.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    torch.testing.assert_close(BestOfK(k=2)(rewards, mask), torch.tensor([[1 / 3, 0.0, 5 / 3, 0.0]]))
    assert not BestOfK(k=3)(rewards, torch.tensor([[1.0, 0.0, 1.0, 0.0]])).any()


@pytest.mark.parametrize("k", [2, 3, 5])
def test_best_of_k_is_the_mean_over_all_sets(k: int) -> None:
    rewards, mask, _ = group_of(4, 3, 6)
    found = BestOfK(k=k)(rewards, mask)
    for row, kept, values in zip(rewards.tolist(), mask.tolist(), found.tolist(), strict=True):
        sets = list(combinations([i for i in range(6) if kept[i]], k))
        for i in range(6):
            added = [max(row[j] for j in each) - max(row[j] for j in each if j != i) for each in sets if i in each]
            assert values[i] == pytest.approx(sum(added) / max(len(sets), 1), abs=1e-6)


def test_best_of_k_has_the_gradient_of_the_best_of_k() -> None:
    """Of a policy over three answers, in the mean over all that four samples may be: to float64's rounding."""
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    worth, k = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64), 3
    p = logits.softmax(0)
    best = sum(p[list(each)].prod() * worth[list(each)].max() for each in product(range(3), repeat=k))
    (exact,) = torch.autograd.grad(best, logits)
    estimate = torch.zeros(3, dtype=torch.float64)
    for each in map(list, product(range(3), repeat=4)):
        advantages = BestOfK(k=k)(worth[each][None], torch.ones(1, 4))[0]
        score = torch.eye(3, dtype=torch.float64)[each] - p.detach()
        estimate += p.detach()[each].prod() * (advantages.double() @ score)
    torch.testing.assert_close(estimate, exact, rtol=0, atol=1e-6)

"""Losses of reward models: what each must do, pairs worked by hand, and TRL's formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lm.config import methods_of
from tasks.reward import losses
from tasks.reward.losses import BradleyTerry, Pointwise
from tasks.reward.losses.base import RewardLoss
from tests.gradients import equals_finite_differences

EVERY = pytest.mark.parametrize("method", methods_of(losses), ids=lambda method: method.__name__)
quick = settings(deadline=None, max_examples=30, derandomize=True)
scores = st.floats(-20, 20)


def softplus(x: float) -> float:
    """log(1 + e^x), which is -log sigmoid(-x)."""
    return math.log1p(math.exp(x))


def of(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


BY_HAND: list[tuple[RewardLoss, float]] = [
    (BradleyTerry(), softplus(-1.5)),
    (BradleyTerry(margin=2.0), softplus(0.5)),
    (BradleyTerry(centre=0.01), softplus(-1.5) + 0.01 * 0.5**2),
    (BradleyTerry(margin=1.0, centre=0.5), softplus(-0.5) + 0.5 * 0.5**2),
    (Pointwise(), (softplus(-1.0) + softplus(-0.5)) / 2),
]


@pytest.mark.parametrize(("method", "loss"), BY_HAND, ids=repr)
def test_by_hand(method: RewardLoss, loss: float) -> None:
    """Scores of 1 and -0.5: a difference of 1.5 and a sum of 0.5."""
    assert method(of(1.0), of(-0.5)).item() == pytest.approx(loss, rel=1e-12)


@quick
@given(
    pairs=st.lists(st.tuples(scores, scores), min_size=1, max_size=5), margin=st.floats(0, 3), centre=st.floats(0, 1)
)
def test_bradley_terry_is_the_loss_of_trl(pairs: list[tuple[float, float]], margin: float, centre: float) -> None:
    """RewardTrainer.compute_loss of TRL, with a column `margin` and `center_rewards_coefficient`, retyped."""
    chosen, rejected = (torch.tensor(some, dtype=torch.float64) for some in zip(*pairs, strict=True))
    theirs = -F.logsigmoid(chosen - rejected - torch.full_like(chosen, margin)).mean()
    theirs = theirs + centre * torch.mean((chosen + rejected) ** 2)
    ours = BradleyTerry(margin=margin, centre=centre)(chosen[:, None], rejected[:, None]).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@EVERY
def test_gradient_equals_finite_differences(method: type[RewardLoss]) -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = (torch.randn(4, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    equals_finite_differences(lambda x: method()(x, rejected).sum(), chosen)
    equals_finite_differences(lambda x: method()(chosen, x).sum(), rejected)


@EVERY
@quick
@given(chosen=scores, rejected=scores)
def test_the_chosen_score_is_raised_and_the_rejected_one_lowered(
    method: type[RewardLoss], chosen: float, rejected: float
) -> None:
    chosen_PM, rejected_PM = of(chosen).requires_grad_(), of(rejected).requires_grad_()
    method()(chosen_PM, rejected_PM).sum().backward()
    assert chosen_PM.grad is not None and rejected_PM.grad is not None
    assert chosen_PM.grad.item() < 0 < rejected_PM.grad.item()


@EVERY
def test_each_pair_and_each_head_counts_by_itself(method: type[RewardLoss]) -> None:
    generator = torch.Generator().manual_seed(1)
    chosen, rejected = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    whole = method()(chosen, rejected)
    assert whole.shape == (5, 3)
    assert torch.equal(whole[2:3, 1:2], method()(chosen[2:3, 1:2], rejected[2:3, 1:2]))


@EVERY
@pytest.mark.parametrize("far", [1e3, -1e3])
def test_scores_far_apart_give_numbers(method: type[RewardLoss], far: float) -> None:
    chosen_PM = torch.tensor([[far]], requires_grad=True)
    loss = method()(chosen_PM, torch.tensor([[0.0]]))
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(chosen_PM.grad).all()

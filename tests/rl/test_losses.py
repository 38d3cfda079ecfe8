"""Policy losses: what every one of them must do, and small cases worked by hand. T sampled tokens."""

import math

import pytest
import torch
from torch import Tensor

from lm.config import Config, methods_of
from tasks.rl import losses
from tasks.rl.losses import PolicyGradient, Reinforce

EVERY = pytest.mark.parametrize("method", methods_of(losses), ids=lambda method: method.__name__)


def tokens(size: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """logp_T, advantages_T, mask_T; float64."""
    generator = torch.Generator().manual_seed(0)
    logp = -torch.rand(size, generator=generator, dtype=torch.float64) * 3
    advantages = torch.randn(size, generator=generator, dtype=torch.float64)
    return logp, advantages, (torch.arange(size) % 3 != 0).double()


def gradient(method: Config, logp: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, denominator: float) -> Tensor:
    logp = logp.clone().requires_grad_()
    method(logp, old, advantages, mask, denominator)[0].backward()
    return logp.grad


@EVERY
def test_of_the_sampling_policy_it_is_the_policy_gradient(method: type[Config]) -> None:
    logp, advantages, mask = tokens()
    expected = -advantages * mask / mask.sum()
    torch.testing.assert_close(gradient(method(), logp, logp, advantages, mask, mask.sum()), expected)


@EVERY
def test_gradient_equals_finite_differences(method: type[Config]) -> None:
    logp, advantages, mask = tokens()
    old = logp + 0.1 * torch.sin(torch.arange(12.0))
    assert torch.autograd.gradcheck(lambda x: method()(x, old, advantages, mask, 5.0)[0], logp.clone().requires_grad_())


@EVERY
def test_parts_of_a_batch_add_up(method: type[Config]) -> None:
    logp, advantages, mask = tokens()
    old = logp.roll(1)
    whole, figures = method()(logp, old, advantages, mask, mask.sum())
    parts = [method()(logp[s], old[s], advantages[s], mask[s], mask.sum()) for s in (slice(0, 5), slice(5, 12))]
    torch.testing.assert_close(whole, sum(loss for loss, _ in parts))
    for name, figure in figures.items():
        torch.testing.assert_close(figure, sum(more[name] for _, more in parts))


@EVERY
def test_tokens_outside_the_mask_do_not_matter_even_when_infinite(method: type[Config]) -> None:
    logp, advantages, mask = tokens()
    spoiled = torch.where(mask > 0, logp, -torch.inf)
    old = torch.where(mask > 0, logp, -1e9)
    clean = method()(logp, logp, advantages, mask, 3.0)
    dirty = method()(spoiled, old, torch.where(mask > 0, advantages, torch.nan), mask, 3.0)
    assert clean[0] == dirty[0] and clean[1] == dirty[1]
    grad = gradient(method(), spoiled, old, advantages, mask, 3.0)
    assert torch.isfinite(grad).all() and (grad[mask == 0] == 0).all()


@EVERY
def test_an_empty_mask_costs_nothing(method: type[Config]) -> None:
    logp, advantages, mask = tokens()
    loss, figures = method()(logp, logp, advantages, 0 * mask, torch.tensor(1.0))
    assert loss == 0 and all(math.isfinite(value) for value in figures.values())


def test_clipping_by_hand() -> None:
    # Ratios 1.5, 1.5, 0.5, 0.5, 1.1; advantages 2, -2, 2, -2, 1. min(ratio A, clipped A) with clips 0.2 and 0.3:
    # min(3, 2.6), min(-3, -2.6), min(1, 1.6), min(-1, -1.6), 1.1, in all 0.1. The first and the fourth are clipped.
    ratio, advantages = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1]), torch.tensor([2.0, -2.0, 2.0, -2.0, 1.0])
    old = torch.full((5,), -1.0)
    method = PolicyGradient(clip_low=0.2, clip_high=0.3)
    loss, figures = method(old + ratio.log(), old, advantages, torch.ones(5), 10.0)
    assert loss.item() == pytest.approx(-0.01, abs=1e-7)  # float32: terms of about 1, each exact to 6e-8, over 10
    assert figures["clip_fraction"].item() == pytest.approx(0.2)
    # ratio - 1 - log ratio, over the denominator
    kl = (2 * (0.5 - math.log(1.5)) + 2 * (-0.5 - math.log(0.5)) + 0.1 - math.log(1.1)) / 10
    assert figures["approximate_kl"].item() == pytest.approx(kl, abs=1e-6)
    grad = gradient(method, old + ratio.log(), old, advantages, torch.ones(5), 10.0)
    torch.testing.assert_close(grad, torch.tensor([0.0, 0.3, -0.1, 0.0, -0.11]))


def test_reinforce_by_hand() -> None:
    # -(2 * -1 + -3 * -0.5) / 4
    loss, figures = Reinforce()(
        torch.tensor([-1.0, -0.5, -7.0]),
        torch.zeros(3),
        torch.tensor([2.0, -3.0, 1.0]),
        torch.tensor([1.0, 1.0, 0.0]),
        4.0,
    )
    assert loss.item() == pytest.approx(0.125) and figures == {}

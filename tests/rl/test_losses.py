"""Policy losses: what every one of them must do, of log-probabilities as training makes them too, and small cases worked by hand.
B answers of up to T sampled tokens."""

import math
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from lm.config import Config, methods_of
from lm.training.data.conversations import places, token_logps
from tasks.rl import losses
from tasks.rl.losses import Cispo, Gspo, MacroAction, PolicyGradient, Reinforce
from tasks.rl.losses.base import PolicyLoss, divergence, shares
from tests.gradients import equals_finite_differences
from tests.lm.models import toy_model

# of single answers; those of pairs: test_online_dpo.py
SINGLE = [method for method in methods_of(losses) if issubclass(method, PolicyLoss)]
EVERY = pytest.mark.parametrize("method", SINGLE, ids=lambda method: method.__name__)
OVER = pytest.mark.parametrize("over", ["tokens", "answers", "length"])


def tokens(answers: int = 4, longest: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """logp_BT, advantages_B1, mask_BT; float64. Answers of 1, 2, 3... tokens, the third without a verdict."""
    generator = torch.Generator().manual_seed(0)
    logp = -torch.rand(answers, longest, generator=generator, dtype=torch.float64) * 3
    advantages = torch.randn(answers, 1, generator=generator, dtype=torch.float64)
    mask = (torch.arange(longest) <= torch.arange(answers)[:, None]).double()
    mask[2] = 0
    return logp, advantages, mask


def gradient(method: Config, logp: Tensor, old: Tensor, advantages: Tensor, weights: Tensor) -> Tensor:
    logp = logp.clone().requires_grad_()
    method(logp, old, advantages, weights)[0].backward()
    return logp.grad


def test_shares_by_hand() -> None:
    # three answers of 1, 3 and 2 tokens, the last without a verdict
    mask = torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]])
    expected = {"tokens": (1 / 4, 1 / 4), "answers": (1 / 2, 1 / 6), "length": (1 / 16, 1 / 16)}
    for over, (first, second) in expected.items():
        torch.testing.assert_close(shares(mask, over, 8), mask * torch.tensor([[first], [second], [0]]))
        assert not shares(0 * mask, over, 8).any()


@EVERY
@OVER
def test_of_the_sampling_policy_it_is_the_policy_gradient(method: type[Config], over: str) -> None:
    logp, advantages, mask = tokens()
    weights = method(over=over).weights(mask, 6)
    expected = -advantages * weights
    torch.testing.assert_close(gradient(method(over=over), logp, logp, advantages, weights), expected)


@EVERY
def test_an_answer_without_an_advantage_has_no_gradient(method: type[Config]) -> None:
    """On which updates that leave such answers out rely, whatever the ratio."""
    logp, advantages, mask = tokens()
    advantages[1] = 0
    found = gradient(method(), logp, logp + 0.3, advantages, method().weights(mask, 6))
    assert not found[1].any() and found[3].any()


@EVERY
@OVER
def test_tokens_may_have_advantages_of_their_own(method: type[Config], over: str) -> None:
    """Of the sampling policy: a loss that takes tokens together gives each of them what they have in the mean."""
    logp, advantages, mask = tokens()
    weights = method(over=over).weights(mask, 6)
    each = advantages + torch.arange(5) / 10
    found = gradient(method(over=over), logp, logp, each, weights)
    torch.testing.assert_close(found.sum(1), -(each * weights).sum(1))
    if method in (Gspo, MacroAction):
        assert not torch.allclose(found[3], -(each * weights)[3])
    else:
        torch.testing.assert_close(found, -each * weights)
    spread = gradient(method(over=over), logp, logp, advantages.expand(4, 5), weights)
    torch.testing.assert_close(spread, gradient(method(over=over), logp, logp, advantages, weights))


@EVERY
def test_gradient_equals_finite_differences(method: type[Config]) -> None:
    logp, advantages, mask = tokens()
    old = logp + 0.1 * torch.sin(torch.arange(20.0).view(4, 5))
    weights = method().weights(mask, 5)
    equals_finite_differences(lambda x: method()(x, old, advantages, weights)[0], logp, method.holds)


class Clipped(PolicyLoss):
    """-advantage * logp, times a ratio that is clipped at 1.05 and held."""

    name: Literal["clipped"] = "clipped"
    holds: ClassVar[bool] = True

    def __call__(
        self, logp_BT: Tensor, logp_old_BT: Tensor, advantages_BT: Tensor, weights_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        held_BT = (logp_BT - logp_old_BT).exp().clamp(max=1.05).detach()
        return -(weights_BT * advantages_BT * held_BT * logp_BT).sum(), {}


class Unsaid(Clipped):
    """It does not say that it holds anything."""

    holds: ClassVar[bool] = False


class Halved(torch.autograd.Function):
    """What it is given, with half of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient / 2


class Wrong(Clipped):
    def __call__(self, logp_BT: Tensor, *rest: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return super().__call__(Halved.apply(logp_BT), *rest)


class Nothing(PolicyGradient):
    """It holds nothing but what its metrics are of, which changes no gradient."""

    name: Literal["nothing"] = "nothing"
    holds: ClassVar[bool] = True


def test_a_loss_may_hold_what_it_says_and_no_other_gradient_is_taken_for_right() -> None:
    for method in (Clipped, Nothing):
        test_gradient_equals_finite_differences(method)
    for method in (Unsaid, Wrong):
        with pytest.raises(GradcheckError):
            test_gradient_equals_finite_differences(method)


@EVERY
@OVER
def test_parts_of_a_batch_add_up(method: type[Config], over: str) -> None:
    logp, advantages, mask = tokens()
    old = logp.roll(1, 0)
    weights = method(over=over).weights(mask, 5)
    whole, metrics = method(over=over)(logp, old, advantages, weights)
    parts = [method(over=over)(logp[s], old[s], advantages[s], weights[s]) for s in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(whole, sum(loss for loss, _ in parts))
    for name, figure in metrics.items():
        torch.testing.assert_close(figure, sum(more[name] for _, more in parts))


@EVERY
def test_tokens_outside_the_mask_do_not_matter_even_when_infinite(method: type[Config]) -> None:
    logp, advantages, mask = tokens()
    weights = method().weights(mask, 5)
    spoiled = torch.where(mask > 0, logp, -torch.inf)
    old = torch.where(mask > 0, logp, -1e9)
    clean = method()(logp, logp, advantages, weights)
    without = advantages.where(mask.any(1, keepdim=True), torch.nan)
    dirty = method()(spoiled, old, without, weights)
    assert clean[0] == dirty[0] and clean[1] == dirty[1]
    grad = gradient(method(), spoiled, old, without, weights)
    assert torch.isfinite(grad).all() and (grad[mask == 0] == 0).all()


@EVERY
@OVER
def test_an_empty_mask_costs_nothing(method: type[Config], over: str) -> None:
    logp, advantages, mask = tokens()
    loss, metrics = method(over=over)(logp, logp, advantages, method(over=over).weights(0 * mask, 5))
    assert loss == 0 and all(math.isfinite(value) for value in metrics.values())


@EVERY
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_head_that_sees_answers_alone_gives_the_gradients_of_all_logits(
    method: type[Config], temperature: float
) -> None:
    """Of a policy that has moved, so that ratios differ and some clips bind; fp32."""
    model = toy_model(seed=3, tied=False)
    with torch.no_grad():
        model.head.weight.mul_(8)
    generator = torch.Generator().manual_seed(0)
    ids, mask = torch.randint(0, 261, (4, 9), generator=generator), torch.zeros(4, 8)
    for row, (start, end) in enumerate(((3, 8), (5, 6), (2, 5), (0, 8))):
        mask[row, start:end] = row != 2  # the third has no verdict
    advantages, weights = torch.tensor([[1.0], [-2.0], [3.0], [-0.5]]), method().weights(mask, 8)
    plain = (model(ids[:, :-1]) / temperature).log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    old = (plain + 0.4 * torch.randn(4, 8, generator=generator)).detach()
    found = []
    for logps in (plain, token_logps(model, ids, places(mask), temperature)):
        loss, metrics = method()(logps, old, advantages, weights)
        found.append((loss, metrics, torch.autograd.grad(loss, list(model.parameters()))))
    (wanted, wanted_metrics, wanted_grads), (got, got_metrics, got_grads) = found
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got_metrics, wanted_metrics, rtol=1e-4, atol=1e-6)
    for mine, formula in zip(got_grads, wanted_grads, strict=True):
        torch.testing.assert_close(mine, formula, rtol=1e-4, atol=1e-5)
    assert wanted_grads[0].norm() > 0.01 and (method is not PolicyGradient or 0 < got_metrics["clip_fraction"] < 1)


def test_clipping_by_hand() -> None:
    # Ratios 1.5, 1.5, 0.5, 0.5, 1.1; advantages 2, -2, 2, -2, 1. min(ratio A, clipped A) with clips 0.2 and 0.3:
    # min(3, 2.6), min(-3, -2.6), min(1, 1.6), min(-1, -1.6), 1.1, in all 0.1. The first and the fourth are clipped.
    ratio, advantages = (
        torch.tensor([[1.5], [1.5], [0.5], [0.5], [1.1]]),
        torch.tensor([[2.0], [-2.0], [2.0], [-2.0], [1.0]]),
    )
    old, tenths = torch.full((5, 1), -1.0), torch.full((5, 1), 0.1)
    method = PolicyGradient(clip_low=0.2, clip_high=0.3)
    loss, metrics = method(old + ratio.log(), old, advantages, tenths)
    assert loss.item() == pytest.approx(-0.01, abs=1e-7)  # float32: terms of about 1, each exact to 6e-8, over 10
    assert metrics["clip_fraction"].item() == pytest.approx(0.2)
    # ratio - 1 - log ratio, a tenth of each
    kl = (2 * (0.5 - math.log(1.5)) + 2 * (-0.5 - math.log(0.5)) + 0.1 - math.log(1.1)) / 10
    assert metrics["approximate_kl"].item() == pytest.approx(kl, abs=1e-6)
    grad = gradient(method, old + ratio.log(), old, advantages, tenths)
    torch.testing.assert_close(grad, torch.tensor([[0.0], [0.3], [-0.1], [0.0], [-0.11]]))


def test_reinforce_by_hand() -> None:
    # -(2 * -1 + -3 * -0.5 + -3 * -1) / 4; the third answer has no weight
    logp = torch.tensor([[-1.0, -9.0], [-0.5, -1.0], [-7.0, -7.0]])
    weights = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]) / 4
    loss, metrics = Reinforce()(logp, torch.zeros(3, 2), torch.tensor([[2.0], [-3.0], [1.0]]), weights)
    assert loss.item() == pytest.approx(-0.625) and metrics == {}


def test_cispo_by_hand() -> None:
    # Ratios 1.5, 1.1, 0.5, of which the first counts as 1.3: weights 1.3, 1.1, 0.5, times advantages 2, -1, 2, held.
    ratio, advantages = torch.tensor([[1.5], [1.1], [0.5]]), torch.tensor([[2.0], [-1.0], [2.0]])
    old, thirds = torch.full((3, 1), -1.0), torch.full((3, 1), 1 / 3)
    method = Cispo(clip_high=0.3)
    loss, metrics = method(old + ratio.log(), old, advantages, thirds)
    logp = [-1 + math.log(r) for r in (1.5, 1.1, 0.5)]
    assert loss.item() == pytest.approx(-(2.6 * logp[0] - 1.1 * logp[1] + 1.0 * logp[2]) / 3, abs=1e-6)
    assert metrics["clip_fraction"].item() == pytest.approx(1 / 3)
    grad = gradient(method, old + ratio.log(), old, advantages, thirds)
    torch.testing.assert_close(grad, torch.tensor([[-2.6], [1.1], [-1.0]]) / 3)


def test_gspo_by_hand() -> None:
    # Log ratios 0.3 and 0.1 of one answer, whose ratio is exp(0.2); -0.1 of another, exp(-0.1), and one that is masked.
    log_ratio, mask = torch.tensor([[0.3, 0.1], [-0.1, 5.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    old, advantages = torch.full((2, 2), -1.0), torch.tensor([[1.0], [2.0]])
    method = Gspo(clip_low=0.2, clip_high=0.15)
    weights = method.weights(mask, 2)
    loss, metrics = method(old + log_ratio, old, advantages, weights)
    # the mean over two answers; the first is clipped at 1.15, since exp(0.2) = 1.221
    assert loss.item() == pytest.approx(-(1.15 + 2 * math.exp(-0.1)) / 2, abs=1e-6)
    assert metrics["clip_fraction"].item() == pytest.approx(0.5)
    grad = gradient(method, old + log_ratio, old, advantages, weights)
    torch.testing.assert_close(grad, torch.tensor([[0.0, 0.0], [-math.exp(-0.1), 0.0]]))
    wide = gradient(Gspo(clip_high=1.0), old + log_ratio, old, advantages, weights)
    # a token of two has half of its answer's gradient
    torch.testing.assert_close(wide[0], torch.full((2,), -math.exp(0.2) / 4))


def test_macro_actions_by_hand() -> None:
    # Bigrams of an answer of three tokens that begins in the second column: ratios exp(0.3 - 0.1) and exp(-0.5).
    log_ratio, mask = torch.tensor([[9.0, 0.3, -0.1, -0.5]]), torch.tensor([[0.0, 1.0, 1.0, 1.0]])
    old, advantages, thirds = torch.full((1, 4), -1.0), torch.tensor([[2.0]]), mask / 3
    method = MacroAction(n=2, clip_low=0.2, clip_high=0.1)
    loss, metrics = method(old + log_ratio, old, advantages, thirds)
    # each macro action weighs a third, as a token does; the first is clipped at 1.1
    assert loss.item() == pytest.approx(-(2 * 1.1 + 2 * math.exp(-0.5)) / 3, abs=1e-6)
    assert metrics["clip_fraction"].item() == pytest.approx(1 / 3)
    grad = gradient(MacroAction(n=2, clip_high=1.0), old + log_ratio, old, advantages, thirds)
    first, last = -2 * math.exp(0.2) / 3, -2 * math.exp(-0.5) / 3
    torch.testing.assert_close(grad, torch.tensor([[0.0, first, first, last]]))


def test_macro_actions_of_one_token_are_the_policy_gradient() -> None:
    logp, advantages, mask = tokens()
    old, weights = logp.roll(1, 0), PolicyGradient().weights(mask, 5)
    assert torch.equal(
        MacroAction(n=1)(logp, old, advantages, weights)[0], PolicyGradient()(logp, old, advantages, weights)[0]
    )


def test_the_divergence_by_hand() -> None:
    # ratios of reference to policy 2, 0.5 and 1, the last two of weight 0.25, and a token without weight
    logp, weights = torch.tensor([-1.0, -1.0, -1.0, -torch.inf]), torch.tensor([0.5, 0.25, 0.25, 0.0])
    reference = torch.tensor([-1 + math.log(2), -1 - math.log(2), -1.0, 0.0])
    expected = 0.5 * (2 - math.log(2) - 1) + 0.25 * (0.5 + math.log(2) - 1)
    assert divergence(logp, reference, weights).item() == pytest.approx(expected, abs=1e-6)


def test_the_divergence_is_that_of_the_distributions() -> None:
    """Its mean over tokens that the policy draws is KL(policy || reference), and its gradient the KL's, with the score's share."""
    policy, reference = torch.tensor([0.1, 0.2, 0.7]).double(), torch.tensor([0.5, 0.3, 0.2]).double()
    exact = (policy * (policy / reference).log()).sum()
    assert divergence(policy.log()[None], reference.log()[None], policy[None]).item() == pytest.approx(exact.item())


@EVERY
def test_the_divergence_is_added_with_its_weight_and_none_without_a_reference(method: type[Config]) -> None:
    logp, advantages, mask = tokens()
    reference, weights = logp.roll(1, 0), method().weights(mask, 5)
    reference = torch.where(mask > 0, reference, torch.nan)
    found = method(kl=0.5)(logp, logp, advantages, weights)
    assert method(kl=0.5).add_reference_kl(*found, logp, None, weights) == found
    loss, metrics = method(kl=0.5).add_reference_kl(*found, logp, reference, weights)
    torch.testing.assert_close(loss, found[0] + 0.5 * divergence(logp, reference, weights))
    assert set(metrics) == {*found[1], "reference_kl"} and metrics["reference_kl"] > 0
    equals_finite_differences(lambda x: divergence(x, reference, weights), logp)
    parts = [divergence(logp[s], reference[s], weights[s]) for s in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(sum(parts), metrics["reference_kl"])

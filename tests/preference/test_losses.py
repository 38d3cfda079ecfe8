"""Preference losses: what every one of them must do, and pairs worked by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lm.config import methods_of
from tasks.preference import losses
from tasks.preference.losses import Ddo, Dpo, Ipo, Kto, Orpo, Rrhf, Simpo
from tasks.preference.losses.base import Logps, PreferenceLoss
from tests.gradients import equals_finite_differences

EVERY = pytest.mark.parametrize("method", methods_of(losses), ids=lambda method: method.__name__)


def pairs(count: int = 6) -> Logps:
    """Pairs of answers of 1 to 6 tokens, float64, half of them ranked the wrong way round."""
    generator = torch.Generator().manual_seed(0)
    logps = [-4 * torch.rand(count, generator=generator, dtype=torch.float64) - 0.1 for _ in range(4)]
    tokens = [1.0 + torch.arange(count).double(), 1.0 + torch.arange(count).flip(0).double()]
    return Logps(*logps, *tokens, point=0.3)


def one(chosen: float = -2.0, rejected: float = -3.0) -> Logps:
    """A pair whose answers have log-ratios of 0.5 and -1, and means of -1 and -0.75 a token."""
    numbers = (chosen, rejected, -2.5, -2.0, 2.0, 4.0)
    return Logps(*(torch.tensor([number], dtype=torch.float64) for number in numbers), point=0.5)


def softplus(x: float) -> float:
    """log(1 + e^x), which is -log sigmoid(-x)."""
    return math.log1p(math.exp(x))


def odds(mean: float) -> float:
    return math.exp(mean) / (1 - math.exp(mean))


BY_HAND: list[tuple[PreferenceLoss, float, float]] = [
    (Dpo(beta=0.1), softplus(-0.15), 0.15),
    (Dpo(beta=0.2, label_smoothing=0.1), 0.9 * softplus(-0.3) + 0.1 * softplus(0.3), 0.3),
    (Ipo(tau=0.1), (1.5 - 5) ** 2, 1.5),
    (Ipo(tau=0.5, per_token=True), (0.25 + 0.25 - 1) ** 2, 0.5),
    (Kto(beta=0.1, undesirable_weight=2.0), (0.5 + 2 / (1 + math.exp(0.15))) / 2, 0.15),
    (Kto(beta=0.2, desirable_weight=3.0), (3 * 0.5 + 1 / (1 + math.exp(0.3))) / 2, 0.3),
    (Simpo(beta=2.0, gamma=1.0), softplus(1.5), -0.5),
    (Orpo(weight=0.2), 1 + 0.2 * softplus(-math.log(odds(-1) / odds(-0.75))), math.log(odds(-1) / odds(-0.75))),
    (Rrhf(), 0.25 + 2, -0.25),
    (Rrhf(rank_weight=4.0), 1 + 2, -0.25),
    (Ddo(), softplus(-0.5) + softplus(-1), 1.5),
    (Ddo(alpha=3.0, beta=0.5), softplus(-0.25) + 3 * softplus(-0.5), 0.75),
]


@pytest.mark.parametrize(("method", "loss", "margin"), BY_HAND, ids=repr)
def test_by_hand(method: PreferenceLoss, loss: float, margin: float) -> None:
    found_loss, found_margin = method(one())
    assert found_loss.tolist() == [pytest.approx(loss, rel=1e-12)]
    assert found_margin.tolist() == [pytest.approx(margin, rel=1e-12)]


@EVERY
@pytest.mark.parametrize("side", ["chosen_P", "rejected_P"])
def test_gradient_equals_finite_differences(method: type[PreferenceLoss], side: str) -> None:
    given = pairs()
    equals_finite_differences(lambda x: method()(replace(given, **{side: x}))[0].sum(), getattr(given, side))


def gradients(method: PreferenceLoss, given: Logps) -> tuple[Tensor, Tensor]:
    """Of the chosen and of the rejected answers' log-probabilities."""
    chosen, rejected = given.chosen_P.clone().requires_grad_(), given.rejected_P.clone().requires_grad_()
    method(replace(given, chosen_P=chosen, rejected_P=rejected))[0].sum().backward()
    return chosen.grad, rejected.grad


@EVERY
def test_the_chosen_answer_is_made_likelier_and_the_rejected_one_less_likely(method: type[PreferenceLoss]) -> None:
    """Of a pair that is ranked the wrong way round, in sum, by token and beside the start model."""
    wrong = one(chosen=-4.0, rejected=-1.5)
    chosen, rejected = gradients(method(), wrong)
    assert chosen.item() < 0 < rejected.item()
    assert method()(wrong)[1].item() < 0


@EVERY
def test_answers_that_change_places_change_the_sign_of_the_margin(method: type[PreferenceLoss]) -> None:
    given = pairs()
    swapped = Logps(
        given.rejected_P,
        given.chosen_P,
        given.reference_rejected_P,
        given.reference_chosen_P,
        given.rejected_tokens_P,
        given.chosen_tokens_P,
        given.point,
    )
    (loss, margin), (other_loss, other_margin) = method()(given), method()(swapped)
    torch.testing.assert_close(other_margin, -margin)
    assert not torch.isclose(loss, other_loss).any()


@EVERY
def test_it_says_what_it_compares_with(method: type[PreferenceLoss]) -> None:
    given = pairs()
    loss, margin = method()(given)
    for name in ("reference_chosen_P", "reference_rejected_P"):
        moved = method()(replace(given, **{name: getattr(given, name) - 0.5}))
        assert torch.equal(moved[0], loss) != method.needs_reference
        assert torch.equal(moved[1], margin) != method.needs_reference
    moved = method()(replace(given, point=0.9))
    assert torch.equal(moved[0], loss) != method.needs_point and torch.equal(moved[1], margin)
    if not method.needs_reference:
        nothing = torch.full((6,), torch.nan, dtype=torch.float64)
        assert torch.equal(method()(replace(given, reference_chosen_P=nothing, reference_rejected_P=nothing))[0], loss)


@EVERY
def test_each_pair_counts_by_itself_and_its_margin_has_no_gradient(method: type[PreferenceLoss]) -> None:
    given = pairs()
    whole = method()(replace(given, chosen_P=given.chosen_P.clone().requires_grad_()))
    assert whole[0].requires_grad and not whole[1].requires_grad
    for at in range(6):
        names = [name for name in vars(given) if name.endswith("_P")]
        alone = method()(replace(given, **{name: getattr(given, name)[at : at + 1] for name in names}))
        torch.testing.assert_close(alone, (whole[0][at : at + 1].detach(), whole[1][at : at + 1]))


@EVERY
@pytest.mark.parametrize("far", [0.0, -1e-9, -3000.0])
def test_answers_that_are_certain_or_hopeless_give_numbers(method: type[PreferenceLoss], far: float) -> None:
    """fp32: a probability of 1 rounds to it, and one of e^-3000 to 0."""
    for chosen, rejected in ((far, -2.0), (-2.0, far)):
        given = Logps(*(torch.tensor([x]) for x in (chosen, rejected, -2.5, -2.0, 2.0, 4.0)), point=0.5)
        assert torch.isfinite(method()(given)[0]).all()
        assert all(torch.isfinite(gradient).all() for gradient in gradients(method(), given))


def test_ipo_aims_at_a_margin_and_not_beyond_it() -> None:
    beyond = one(chosen=5.0)  # a margin of 8.5, where 5 is aimed at
    chosen, rejected = gradients(Ipo(tau=0.1), beyond)
    assert rejected.item() < 0 < chosen.item()


def test_the_sums_of_answers_of_other_lengths_are_not_compared_as_they_are() -> None:
    """A chosen answer twice as long, as likely a token: those that go by token see no difference."""
    given = replace(
        one(),
        chosen_P=torch.tensor([-6.0], dtype=torch.float64),
        chosen_tokens_P=torch.tensor([8.0], dtype=torch.float64),
    )
    for method in (Simpo(), Rrhf(), Orpo()):
        assert method(given)[1].item() == 0
    assert Dpo()(given)[1].item() != 0

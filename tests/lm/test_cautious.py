"""Caution of updates and of decay, over every optimizer that has it: masks typed again beside what moved, and ranks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lm import optimizers
from lm.config import Config, ConfigError, methods_of
from lm.optimizers import AdamW, Lion, Muon, NorMuon
from lm.optimizers.cautious import Cautious, agreeing
from lm.training.parallel import make_parallel
from tests.lm.models import toy_model
from tests.lm.test_optimizers import ROLES, set_gradients, values, weights
from tests.lm.test_training import recipe

CAUTIOUS = [method for method in methods_of(optimizers) if issubclass(method, Cautious)]
EVERY = pytest.mark.parametrize("method", CAUTIOUS, ids=lambda method: method.__name__)
Moves = list[tuple[Tensor, Tensor]]


def last_moves(method: Config, steps: int, seed: int = 0, rate: float = 1.0) -> Moves:
    """Each weight before and after the last of so many updates; `rate`: times the rate, of the last."""
    named = weights(seed)
    optimizer = method.build(named, ROLES)
    for step in range(steps):
        before = values(named)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * (rate if step + 1 == steps else 1.0)
        set_gradients(named, step)
        optimizer.step()
    return list(zip(before, values(named), strict=True))


def test_adamw_lion_and_the_kinds_of_muon_have_it() -> None:
    assert {AdamW, Lion, Muon, NorMuon} <= set(CAUTIOUS)


@pytest.mark.parametrize("method", [AdamW, Lion])
def test_a_first_update_agrees_with_its_gradient(method: type[Config]) -> None:
    moves = [last_moves(one, 1) for one in (method(), method(cautious=True))]
    for (_, plain), (_, cautious) in zip(*moves, strict=True):
        torch.testing.assert_close(plain, cautious, rtol=1e-6, atol=1e-7)  # the fused kernel's order of rounding


@EVERY
@settings(deadline=None, max_examples=10, derandomize=True)
@given(seed=st.integers(0, 99))
def test_what_is_against_its_gradient_rests_and_the_others_move_more(method: type[Config], seed: int) -> None:
    """The weights are those of plain updates before a last one, which both kinds make from one state."""
    found = []
    for cautious in (False, True):
        named = weights(seed)
        optimizer = method(weight_decay=0.0).build(named, ROLES)
        for step in range(3):
            before = values(named)
            for group in optimizer.param_groups:
                group["cautious"] = cautious and step == 2
            set_gradients(named, step)
            optimizer.step()
        found.append([after - start for after, start in zip(values(named), before, strict=True)])
    shares = []
    for plain, moved, (_, weight) in zip(*found, named, strict=True):
        mask = (plain * weight.grad < 0).float()  # what is subtracted has the gradient's sign
        shares.append(mask.mean().item())
        torch.testing.assert_close(moved, plain * mask / mask.mean(), rtol=1e-3, atol=1e-6)
    assert min(shares) > 0 and min(shares) < 1


@EVERY
def test_only_what_its_update_moves_to_zero_decays(method: type[Config]) -> None:
    still, plain, cautious = (
        last_moves(method(weight_decay=decay, cautious_decay=caution), 1)
        for decay, caution in ((0.0, False), (2.0, False), (2.0, True))
    )
    for (before, without), (_, all_decay), (_, some_decay) in zip(still, plain, cautious, strict=True):
        shrinks = (before - without) * before >= 0
        expected = torch.where(shrinks, all_decay, without)
        torch.testing.assert_close(some_decay, expected, rtol=1e-5, atol=1e-6)
        assert 0 < shrinks.float().mean() < 1


@EVERY
def test_a_scheduled_decay_goes_by_the_square_of_the_factor(method: type[Config]) -> None:
    scheduled = last_moves(method(weight_decay=2.0, scheduled_decay=True), 1, rate=0.5)
    half = last_moves(method(weight_decay=1.0), 1, rate=0.5)
    whole = last_moves(method(weight_decay=2.0, scheduled_decay=True), 1)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(scheduled, half, strict=True))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(whole, last_moves(method(weight_decay=2.0), 1), strict=True))


def test_cautious_adamw_by_hand() -> None:
    # beta1 = 0.5, beta2 = 0: the root is |g|. m1 = 0.5, m2 = 0.25 + 0.5 (-0.1, 1, 1, 1) = (0.2, 0.75, 0.75, 0.75), over
    # 1 - 0.25 and |g|: u = (2.67, 1, 1, 1). The first is against its gradient: it rests, the three move by 4/3.
    weight = nn.Parameter(torch.zeros(1, 4))
    method = AdamW(lr=0.3, beta1=0.5, beta2=0.0, weight_decay=0.0, cautious=True)
    optimizer = method.build([("blocks.0.up.weight", weight)], ROLES)
    for grad in (torch.ones(1, 4), torch.tensor([[-0.1, 1.0, 1.0, 1.0]])):
        before, weight.grad = weight.detach().clone(), grad
        optimizer.step()
    torch.testing.assert_close(weight.detach() - before, torch.tensor([[0.0, -0.4, -0.4, -0.4]]))


def test_one_that_agrees_among_many_moves_a_thousandfold_at_most() -> None:
    update, grad = torch.ones(1, 4000), -torch.ones(1, 4000)
    grad[0, 0] = 1.0
    (found,) = agreeing([update], [grad], list)
    assert found[0, 0].item() == pytest.approx(1000) and found.count_nonzero() == 1


@pytest.mark.parametrize("method", [AdamW, Lion])
def test_pieces_of_weights_do_not_know_how_many_agree(method: type[Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_PARALLEL", "zero2")
    for module in ("lm.training.parallel", "lm.training.parallel.zero"):
        monkeypatch.setattr(f"{module}.world_size", lambda: 2)
    how = recipe(optimizer=lambda: method(cautious=True))
    with pytest.raises(ConfigError, match=f"{how.optimizer.name} needs whole tensors"):
        make_parallel(how).distribute(toy_model(), how.optimizer)

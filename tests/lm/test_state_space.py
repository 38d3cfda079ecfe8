"""S5 by hand, beside a plain loop over the paper's equations in complex numbers, and its state."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.context import Context
from lm.mixers import StateSpace
from lm.mixers.scan import scan
from lm.mixers.state_space import Spaces, zero_order_hold
from lm.model import Cache
from tests.lm.made_parts import (
    assert_an_empty_row_begins_at_nothing,
    assert_gradients_stay_within_documents,
    ids_of,
)
from tests.lm.models import plain_and_compiled, toy_model

WIDE = {"rtol": 1e-10, "atol": 1e-12}
MIXER = {"name": "state_space", "states": 6}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def layer_of(seed: int = 1) -> Spaces:
    """A layer in double precision, no weight of which is 0."""
    layer = StateSpace(states=6).build(toy_model().config).double()
    with torch.no_grad():
        for index, weight in enumerate(layer.parameters()):
            weight.copy_(numbers(*weight.shape, seed=seed + index) * 0.3 + (weight if weight.ndim == 1 else 0))
    return layer


def looped(layer: Spaces, u_TD: Tensor) -> Tensor:
    """y_TD of one sequence: equations 2, 4 and 6 of Smith et al. 2022, a step at a time, with the gated output behind."""
    eigenvalues = torch.complex(-layer.log_decay.exp(), layer.frequency)
    turns = (eigenvalues * layer.log_step.exp()).exp()
    B_PD = torch.complex(*layer.enter.weight.chunk(2, 0))
    C_DP = torch.complex(*layer.read.weight.chunk(2, 1))
    B_PD = ((turns - 1) / eigenvalues)[:, None] * B_PD
    x_P, made = torch.zeros(6, dtype=torch.complex128), []
    for u_D in u_TD:
        x_P = turns * x_P + B_PD @ u_D.to(torch.complex128)
        y_D = F.gelu(2 * (C_DP @ x_P).real + layer.skip * u_D)
        made.append(layer.down.weight @ y_D * torch.sigmoid(layer.gate.weight @ y_D + layer.gate.bias))
    return torch.stack(made)


def through(layer: Spaces, u_BTD: Tensor) -> Tensor:
    return layer(u_BTD, Context(torch.empty(0), torch.empty(0)))


@torch.no_grad()
def test_it_is_the_loop_of_the_paper() -> None:
    layer, u_BTD = layer_of(), numbers(2, 21, 32)
    found = through(layer, u_BTD)
    for row in range(2):
        torch.testing.assert_close(found[row], looped(layer, u_BTD[row]), **WIDE)


def test_a_step_by_hand() -> None:
    """lambda = -1 with a step of log 2 halves: L = 1/2, and (1/2 - 1) / -1 = 1/2 is let in. lambda = i pi / 2, nearly without
    decay, with a step of 1 turns by a quarter: L = i, and (i - 1) / (i pi / 2) = (1 + i) 2 / pi."""
    given = ([1.0, 1e-30], [0.0, math.pi / 2], [math.log(2), 1.0])
    turns, let_in = zero_order_hold(*(torch.tensor(each, dtype=torch.float64) for each in given))
    torch.testing.assert_close(turns, torch.tensor([0.5, 1j], dtype=torch.complex128), **WIDE)
    torch.testing.assert_close(let_in, torch.tensor([0.5, (1 + 1j) * 2 / math.pi], dtype=torch.complex128), **WIDE)


def test_slow_numbers_lose_no_digits() -> None:
    """A step of 1e-5: the plain (L - 1) / lambda has 1 of fp32's 2^-23 in its 1e-5, which is 1%."""
    decay, frequency, step = torch.tensor([0.5]), torch.tensor([1.0]), torch.tensor([1e-5])
    wanted = zero_order_hold(decay.double(), frequency.double(), step.double())[1]
    torch.testing.assert_close(zero_order_hold(decay, frequency, step)[1].to(wanted), wanted, rtol=1e-6, atol=0)
    plain = ((torch.complex(-decay, frequency) * step).exp() - 1) / torch.complex(-decay, frequency)
    assert (plain.to(wanted) / wanted - 1).abs() > 1e-4


@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_scan_of_complex_numbers_is_a_loop_with_its_gradients(length: int) -> None:
    a, b = (torch.complex(numbers(2, length, 3, seed=s), numbers(2, length, 3, seed=s + 9)) for s in (0, 1))
    a, b = (a / (1 + a.abs())).requires_grad_(), b.requires_grad_()
    h, steps = torch.zeros(2, 3, dtype=a.dtype), []
    for step in range(length):
        h = a[:, step] * h + b[:, step]
        steps.append(h)
    looped_ = torch.stack(steps, 1)
    weigh = torch.complex(numbers(2, length, 3, seed=2), numbers(2, length, 3, seed=3))
    found = [torch.autograd.grad((made * weigh).real.sum(), (a, b)) for made in (scan(a, b), looped_)]
    torch.testing.assert_close(scan(a, b), looped_, **WIDE)
    torch.testing.assert_close(*found, **WIDE)
    assert torch.autograd.gradcheck(scan, (a, b))


def test_documents_begin_anew_to_the_bit_and_their_gradients_stay_within_them() -> None:
    assert_gradients_stay_within_documents(MIXER)


def test_a_row_without_tokens_begins_at_nothing_whatever_its_state_is() -> None:
    assert_an_empty_row_begins_at_nothing(MIXER)


def test_a_state_is_complex_and_no_larger_for_more_tokens() -> None:
    model = toy_model(mixer=MIXER)
    assert model.config.state_numel(40) == model.config.state_numel(1) == 2 * 2 * 6
    for dtype, own in ((torch.bfloat16, torch.complex64), (torch.float64, torch.complex128)):
        states = Cache(model.config, 2, 40, dtype=dtype).states
        assert {(state.last_BH.dtype, state.last_BH.shape) for state in states} == {(own, (2, 6))}


def test_no_two_numbers_begin_alike_and_all_steps_are_within_their_range() -> None:
    layer = StateSpace(states=64).build(toy_model().config)
    steps = layer.log_step.exp()
    assert 0.00099 < steps.min() < 0.0012 and 0.085 < steps.max() < 0.101
    assert len(set(steps.tolist())) == 64 and layer.frequency.tolist() == pytest.approx(
        [math.pi * n for n in range(64)]
    )
    assert layer.log_decay.exp().tolist() == pytest.approx([0.5] * 64)


def test_documents_compile_to_one_graph() -> None:
    model = toy_model(mixer=MIXER)
    bounds = torch.tensor([0, 5, 12, 24])
    assert plain_and_compiled(model, lambda: model(ids_of(2, 12), bounds=bounds).square().sum().backward()) == 1


def test_matrices_of_a_layer() -> None:
    shapes = {name: tuple(w.shape) for name, w in StateSpace(states=6).build(toy_model().config).named_parameters()}
    assert shapes == {
        "log_decay": (6,), "frequency": (6,), "log_step": (6,), "skip": (32,), "enter.weight": (12, 32),
        "read.weight": (32, 12), "gate.weight": (32, 32), "gate.bias": (32,), "down.weight": (32, 32),
    }  # fmt: skip

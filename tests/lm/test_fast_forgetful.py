"""Fast and Forgetful Memory beside a plain loop over the paper's equations in complex numbers, and its state."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.context import Context
from lm.mixers import FastForgetful
from lm.mixers.fast_forgetful import Memory
from lm.model import Cache
from tests.lm.made_parts import (
    assert_gradients_stay_within_documents,
    ids_of,
)
from tests.lm.models import plain_and_compiled, toy_model

WIDE = {"rtol": 1e-10, "atol": 1e-12}
MIXER = {"name": "fast_forgetful", "traces": 5, "periods": 3}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def layer_of() -> Memory:
    """A layer in double precision, no weight of which is 0."""
    layer = FastForgetful(traces=5, periods=3).build(toy_model().config).double()
    with torch.no_grad():
        for index, (name, weight) in enumerate(layer.named_parameters()):
            begun = weight if name in ("fade", "turn") else 0.0
            weight.copy_(numbers(*weight.shape, seed=index) * 0.3 + begun)
    return layer


def looped(layer: Memory, x_TD: Tensor) -> Tensor:
    """y_TD of one sequence: the equations of Morad et al. 2023, a token at a time, with the matrix behind."""
    state, made = torch.zeros(5, 3, dtype=torch.complex128), []
    fades = torch.exp(torch.complex(-layer.fade.abs()[:, None].expand(5, 3), layer.turn.expand(5, 3)))
    for x_D in x_TD:
        said = layer.enter(x_D) * torch.sigmoid(layer.enter_gate(x_D))
        state = fades * state + said[:, None]
        z_D = layer.read(torch.cat((state.real.flatten(), state.imag.flatten())))
        gate = torch.sigmoid(layer.read_gate(x_D))
        normed = (z_D - z_D.mean()) / (z_D.var(correction=0) + layer.eps).sqrt()
        made.append(layer.down.weight @ (normed * gate + layer.skip(x_D) * (1 - gate)))
    return torch.stack(made)


@torch.no_grad()
def test_it_is_the_loop_of_the_paper() -> None:
    layer, x_BTD = layer_of(), numbers(2, 21, 32, seed=99)
    found = layer(x_BTD, Context(torch.empty(0), torch.empty(0)))
    for row in range(2):
        torch.testing.assert_close(found[row], looped(layer, x_BTD[row]), **WIDE)


def test_documents_begin_anew_to_the_bit_and_their_gradients_stay_within_them() -> None:
    assert_gradients_stay_within_documents(MIXER)


def test_a_state_is_complex_and_no_larger_for_more_tokens() -> None:
    model = toy_model(mixer=MIXER)
    assert model.config.state_numel(40) == model.config.state_numel(1) == 2 * 2 * 15
    for dtype, own in ((torch.bfloat16, torch.complex64), (torch.float64, torch.complex128)):
        states = Cache(model.config, 2, 40, dtype=dtype).states
        assert {(state.last_BH.dtype, state.last_BH.shape) for state in states} == {(own, (2, 15))}


def test_rates_and_periods_begin_spread() -> None:
    layer = FastForgetful(traces=3, periods=2).build(toy_model().config)  # of a context of 48
    assert layer.fade.tolist() == pytest.approx([1e-6, 0.0500005, 0.1])
    assert layer.turn.tolist() == pytest.approx([math.pi, 2 * math.pi / 48])


def test_it_is_another_layer_than_a_state_space() -> None:
    """What a token says is let in whole, and read beside the token itself: with a gate of 0 nothing is read at all."""
    layer, x_BTD = layer_of(), numbers(1, 4, 32, seed=99)
    with torch.no_grad():
        layer.read_gate.weight.zero_()
        layer.read_gate.bias.fill_(-1e3)
        found = layer(x_BTD, Context(torch.empty(0), torch.empty(0)))
        torch.testing.assert_close(found, F.linear(layer.skip(x_BTD), layer.down.weight), **WIDE)


def test_documents_compile_to_one_graph() -> None:
    model = toy_model(mixer=MIXER)
    bounds = torch.tensor([0, 5, 12, 24])
    assert plain_and_compiled(model, lambda: model(ids_of(2, 12), bounds=bounds).square().sum().backward()) == 1

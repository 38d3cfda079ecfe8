"""Hyena beside a plain loop over the paper's recurrence, a document at a time, its convolutions, and what it keeps."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention.documents import documents_of
from lm.calibration import collect_layer_inputs
from lm.context import Context
from lm.mixers import Hyena
from lm.mixers.hyena import Operator, convolved, convolved_at, convolved_within
from lm.model import Cache
from tests.lm.made_parts import (
    assert_an_empty_row_begins_at_nothing,
    assert_gradients_stay_within_documents,
    decided,
    ids_of,
)
from tests.lm.models import plain_and_compiled, toy_model

WIDE = {"rtol": 1e-10, "atol": 1e-10}
MIXER = {"name": "hyena", "filter_width": 8}
EMPTY = torch.empty(0)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def layer_of(order: int) -> Operator:
    """A layer in double precision, no weight of which is 0; its context is 48."""
    layer = Hyena.model_validate({"order": order, "filter_width": 8}).build(toy_model().config).double()
    with torch.no_grad():
        for index, weight in enumerate(layer.parameters()):
            weight.copy_(numbers(*weight.shape, seed=index) * 0.3)
    return layer


def filter_at(layer: Operator, lag: int, n: int) -> Tensor:
    """h^n_D of a lag: 33 features, two inner layers with sines, and the window of the authors' code."""
    t = lag / 48
    bands = [1e-4 + (15 - 1e-4) * k / 15 for k in range(16)]
    waves = [math.cos(2 * math.pi * t * band) for band in bands] + [-math.sin(2 * math.pi * t * band) for band in bands]
    x = torch.tensor([t, *waves], dtype=torch.float64)
    for matrix in (layer.filters.enter, layer.filters.inner):
        x = torch.sin(10 * (matrix.weight @ x + matrix.bias))
    made_D = layer.filters.leave.weight[32 * n : 32 * n + 32] @ x
    slow, fast = (-math.log(0.01) / share for share in (1.5, 0.3))
    return torch.stack([made_D[d] * math.exp(-t * (slow + (fast - slow) * d / 31)) for d in range(32)])


def looped(layer: Operator, x_TD: Tensor, order: int) -> Tensor:
    """y_TD of one document: definition 3.1 of Poli et al. 2023, a token at a time."""
    made = [layer.project.weight @ x_D + layer.project.bias for x_D in x_TD]
    short = [sum(layer.taps[lag] * made[t - lag] for lag in range(min(t + 1, 3))) for t in range(len(made))]
    v, *gates = torch.stack(short).split(32, 1)
    z = list(v)
    for n in range(order):
        h = [filter_at(layer, lag, n) for lag in range(len(z))]
        z = [gates[n][t] * sum(h[t - s] * z[s] for s in range(t + 1)) for t in range(len(z))]
    return torch.stack([layer.output.weight @ each for each in z])


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("bounds", [[0, 19, 38], [0, 1, 6, 8, 19, 23, 38]], ids=["rows", "documents"])
@torch.no_grad()
def test_it_is_the_loop_of_the_paper_in_every_document(order: int, bounds: list[int]) -> None:
    layer, x_BTD = layer_of(order), numbers(2, 19, 32, seed=9)
    documents = None if bounds == [0, 19, 38] else documents_of(torch.tensor(bounds), 2, 19, torch.device("cpu"))
    shared = Hyena().prepare(toy_model().config, Context(EMPTY, EMPTY, documents), 2, 19)
    found = layer(x_BTD, Context(EMPTY, EMPTY, documents, shared)).flatten(0, 1)
    for start, end in zip(bounds, bounds[1:], strict=False):
        torch.testing.assert_close(found[start:end], looped(layer, x_BTD.flatten(0, 1)[start:end], order), **WIDE)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
def test_a_convolution_within_documents_is_a_loop_with_its_gradients(length: int) -> None:
    h, z = (numbers(*shape, seed=length).requires_grad_() for shape in ((length, 3), (2, length, 3)))
    starts = torch.tensor(
        [[0] * length, [length // 3 * (t // (length // 3 or 1)) if length > 2 else t for t in range(length)]]
    )
    wanted = torch.stack(
        [
            torch.stack([sum(h[t - s] * z[row, s] for s in range(int(starts[row, t]), t + 1)) for t in range(length)])  # type: ignore[misc]
            for row in range(2)
        ]
    )
    weigh = numbers(2, length, 3, seed=99)
    made = convolved_within(h, z, starts)
    torch.testing.assert_close(made, wanted, **WIDE)
    torch.testing.assert_close(convolved(h, z)[0], wanted[0], **WIDE)
    found = [torch.autograd.grad((each * weigh).sum(), (h, z), retain_graph=True) for each in (made, wanted)]
    torch.testing.assert_close(*found, **WIDE)


@torch.no_grad()
def test_slots_behind_a_token_do_not_count_whatever_stands_in_them() -> None:
    h, z = numbers(9, 3), numbers(2, 9, 3, seed=1)
    positions = torch.tensor([[4, 5], [6, 7]])
    wanted = convolved(h, z).gather(1, positions[..., None].expand(-1, -1, 3))
    z[0, 6:], z[1, 8:] = 1e3, -1e3
    torch.testing.assert_close(convolved_at(h, z, positions), wanted, **WIDE)
    for step in range(2):
        torch.testing.assert_close(
            convolved_at(h, z, positions[:, step : step + 1]), wanted[:, step : step + 1], **WIDE
        )


def test_a_gradient_stays_within_its_document() -> None:
    assert_gradients_stay_within_documents(MIXER)


def test_a_row_without_tokens_begins_at_nothing_whatever_its_state_is() -> None:
    assert_an_empty_row_begins_at_nothing(MIXER)


def test_it_keeps_every_token_and_two_of_the_projections() -> None:
    model = toy_model(mixer=MIXER)
    assert model.config.state_numel(40) == 2 * (2 * 40 * 32 + 2 * 3 * 32)
    state = Cache(model.config, 2, 40, dtype=torch.bfloat16).states[0]
    assert (state.kept_NBCD.shape, state.last_BJM.shape) == ((2, 2, 40, 32), (2, 2, 96))
    assert state.kept_NBCD.dtype == state.last_BJM.dtype == torch.bfloat16


def test_its_filters_are_idle_and_its_transforms_are_counted() -> None:
    config = toy_model(mixer=MIXER).config
    layer = Hyena(filter_width=8).build(config)
    made = sum(weight.numel() for weight in layer.filters.parameters() if weight.ndim == 2)
    assert Hyena(filter_width=8).unused_weights(config) == made
    assert Hyena().flops(config, 16) == 2 * 32 * 4 * 5 * 5


def test_documents_compile_to_one_graph() -> None:
    model = toy_model(mixer=MIXER)
    bounds = torch.tensor([0, 5, 12, 24])
    assert plain_and_compiled(model, lambda: model(ids_of(2, 12), bounds=bounds).square().sum().backward()) == 1


def test_filters_are_not_rounded() -> None:
    """Under autocast, where positions would be 256 apart at most: the products of tokens are rounded, filters are not."""
    layer = decided({"mixer": MIXER, "layers": 1}).blocks[0].attention
    x_BTD, seen = numbers(1, 12, 32).float(), list[Tensor]()
    layer.filters.register_forward_hook(lambda module, inputs, output: seen.append(output))
    plain = layer(x_BTD, Context(EMPTY, EMPTY))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = layer(x_BTD, Context(EMPTY, EMPTY))
    assert torch.equal(*seen) and rounded.dtype == torch.bfloat16
    assert F.cosine_similarity(rounded.float().flatten(), plain.flatten(), dim=0) > 0.99


@torch.no_grad()
def test_a_calibration_sees_each_position_of_a_filter_once_a_pass() -> None:
    model, ids = decided({"mixer": MIXER, "layers": 1}), ids_of(3, 9)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, 5:] = False
    names = [f"blocks.0.attention.{name}.weight" for name in ("project", "filters.enter", "filters.leave")]
    found = collect_layer_inputs(model, names, [(ids, mask)])
    assert [len(found[name].rows_NI) for name in names] == [3 * 9 - 4, 9, 9]

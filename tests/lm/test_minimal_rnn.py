"""minGRU and minLSTM by hand, beside the paper's own listing in logarithms, and over long sequences."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.mixers import MinimalRNN
from lm.mixers.minimal_rnn import Hidden, Recurrent, above_zero, gru, lstm
from lm.mixers.scan import scan
from lm.model import Cache
from tests.lm.made_parts import (
    assert_an_empty_row_begins_at_nothing,
    assert_gradients_stay_within_documents,
    decided,
    ids_of,
)
from tests.lm.models import plain_and_compiled, toy_model

WIDE = {"rtol": 1e-10, "atol": 1e-12}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def log_g(x: Tensor) -> Tensor:
    """The paper's listing, appendix B.2.1."""
    return torch.where(x >= 0, (F.relu(x) + 0.5).log(), -F.softplus(-x))


def parallel_scan_log(log_coeffs: Tensor, log_values: Tensor) -> Tensor:
    """The paper's listing, appendix B.1; the first value is that of the state before."""
    a_star = F.pad(torch.cumsum(log_coeffs, dim=1), (0, 0, 1, 0))
    log_h0_plus_b_star = torch.logcumsumexp(log_values - a_star, dim=1)
    return (a_star + log_h0_plus_b_star).exp()[:, 1:]


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_it_is_the_listing_of_the_paper(kind: str) -> None:
    candidate, first, second = (3 * numbers(2, 33, 5, seed=seed) for seed in range(3))
    nothing = torch.full((2, 1, 5), -math.inf, dtype=torch.float64)
    if kind == "gru":
        log_z, log_coeffs = -F.softplus(-first), -F.softplus(first)
        theirs = parallel_scan_log(log_coeffs, torch.cat([nothing, log_z + log_g(candidate)], 1))
        ours = scan(*gru(first, candidate))
    else:
        diff = F.softplus(-first) - F.softplus(-second)
        log_f, log_i = -F.softplus(diff), -F.softplus(-diff)
        theirs = parallel_scan_log(log_f, torch.cat([nothing, log_i + log_g(candidate)], 1))
        ours = scan(*lstm(first, second, candidate))
    torch.testing.assert_close(ours, theirs, **WIDE)


def test_a_step_by_hand() -> None:
    """Gates of 1/4 and 3/4 in, 1/2 out: z = 3/4; i / (f + i) = (3/4) / (3/4 + 1/2) = 3/5. A candidate of 1 counts 3/2."""
    three_quarters, half, one = torch.tensor([3.0]).log(), torch.tensor([0.0]), torch.tensor([1.0])
    torch.testing.assert_close(gru(three_quarters, one), (torch.tensor([1 / 4]), torch.tensor([9 / 8])))
    torch.testing.assert_close(lstm(half, three_quarters, one), (torch.tensor([2 / 5]), torch.tensor([9 / 10])))
    torch.testing.assert_close(
        above_zero(torch.tensor([-2.0, 0.0, 1.0])), torch.tensor([1 / (1 + math.e**2), 0.5, 1.5])
    )


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
def test_a_scan_is_a_loop_with_its_gradients(length: int) -> None:
    a, b = numbers(2, length, 3).sigmoid().requires_grad_(), numbers(2, length, 3, seed=1).requires_grad_()
    h, steps = torch.zeros(2, 3).double(), []
    for step in range(length):
        h = a[:, step] * h + b[:, step]
        steps.append(h)
    weigh = numbers(2, length, 3, seed=2)
    looped = torch.stack(steps, 1)
    found = [torch.autograd.grad((made * weigh).sum(), (a, b)) for made in (scan(a, b), looped)]
    torch.testing.assert_close(scan(a, b), looped, **WIDE)
    torch.testing.assert_close(*found, **WIDE)
    assert torch.autograd.gradcheck(scan, (a, b))


def test_nothing_is_lost_in_a_long_sequence_of_a_layer_that_forgets() -> None:
    """Logarithms of sums lose digits with the length: 8,192 gates of about e^-8 add up to 65,000, where fp32 has steps of 1/256,
    and the listing is then out by some thousandths."""
    update, candidate = numbers(1, 8192, 2) + 8, numbers(1, 8192, 2, seed=1)
    wanted = scan(*gru(update, candidate))
    found = scan(*gru(update.float(), candidate.float())).double()
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    coeffs, values = -F.softplus(update.float()), -F.softplus(-update.float()) + log_g(candidate.float())
    logs = parallel_scan_log(coeffs, torch.cat([torch.full((1, 1, 2), -math.inf), values], 1)).double()
    assert ((logs / wanted) - 1).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_documents_begin_anew_to_the_bit_and_their_gradients_stay_within_them(kind: str) -> None:
    assert_gradients_stay_within_documents({"name": "minimal_rnn", "kind": kind})


def test_a_row_without_tokens_begins_at_nothing_whatever_its_state_is() -> None:
    """A sampler has rows whose answer has ended compute on, and counts them as empty."""
    assert_an_empty_row_begins_at_nothing({"name": "minimal_rnn"})


@torch.no_grad()
def test_padding_alone_leaves_a_state_as_it_was() -> None:
    model = decided({"mixer": {"name": "minimal_rnn", "kind": "lstm", "expansion": 2}})
    cache = Cache(model.config, 2, 12)
    model(ids_of(2, 6), cache)
    before = [state.last_BH.clone() for state in cache.states]
    model.hidden(ids_of(2, 3, seed=1), cache, counts_B=torch.tensor([0, 2]))
    for state, was in zip(cache.states, before, strict=True):
        assert state.last_BH.shape == (2, 64)
        assert torch.equal(state.last_BH[0], was[0]) and not torch.equal(state.last_BH[1], was[1])


def test_a_state_is_no_larger_for_more_tokens_and_never_half_a_number() -> None:
    model = toy_model(mixer={"name": "minimal_rnn", "expansion": 3})
    assert model.config.state_numel(40) == model.config.state_numel(1) == 2 * 3 * 32
    cache = Cache(model.config, 2, 40, dtype=torch.bfloat16)
    assert {(state.last_BH.dtype, state.last_BH.shape) for state in cache.states} == {(torch.float32, (2, 96))}
    assert Hidden(1, 2, None, torch.float64).last_BH.dtype == torch.float64


def test_minimal_lstms_compile_to_one_graph() -> None:
    """Those of a pattern, whose layers differ, are as many as it has kinds; tests of all parts take the default, minGRU."""
    model = toy_model(mixer={"name": "minimal_rnn", "kind": "lstm"})
    bounds = torch.tensor([0, 5, 12, 24])
    assert plain_and_compiled(model, lambda: model(ids_of(2, 12), bounds=bounds).square().sum().backward()) == 1


@pytest.mark.parametrize(("kind", "gates"), [("gru", ["update"]), ("lstm", ["forget", "enter"])])
def test_matrices_of_a_layer(kind: Any, gates: list[str]) -> None:
    layer = MinimalRNN(kind=kind, expansion=2).build(toy_model().config)
    assert isinstance(layer, Recurrent)
    shapes = {name: tuple(weight.shape) for name, weight in layer.named_parameters()}
    inner = dict.fromkeys((*gates, "candidate"), (64, 32))
    assert shapes == {
        **{f"{name}.weight": shape for name, shape in inner.items()},
        **{f"{name}.bias": (64,) for name in inner},
        "down.weight": (32, 64),
    }

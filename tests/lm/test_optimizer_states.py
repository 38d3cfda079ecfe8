"""Moments kept in FP8: the codec beside its formula in numpy, and every optimizer with it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flows.forecast.dry_run import dry_run_step
from lm import optimizers
from lm.averages import Ema, Last
from lm.config import Config, ConfigError, methods_of
from lm.linears import ReLoRA
from lm.linears.base import roles_of
from lm.optimizers import AdamW, Muon, OneBitAdam, Soap, SoapMuon
from lm.optimizers.base import SIDES, Keeping
from lm.optimizers.states import KIND, MOMENTS, States, dequantize, quantize
from lm.schedules import Cosine
from lm.training.parallel.ddp import refuse
from lm.training.parallel.exact import Exact
from lm.training.recipe import Recipe
from tasks.about.work import Step
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.test_linears import batch_of, fit

FP8 = States(format="fp8")
# Those with a moment to keep, of which no rank asks another
CODED = [method for method in methods_of(optimizers) if method is not OneBitAdam]


def spread(count: int, decades: float) -> Tensor:
    """Numbers of either sign whose magnitudes are evenly spread, by their logarithm, over so many decades."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
    return signs * 10 ** (torch.rand(count, generator=generator) * decades - decades - 3)


def by_formula(values: np.ndarray) -> np.ndarray:
    """COAT's equations for one group: x to sign(x) |x|^k, by k = log R / log (most / least), then E4M3 by its largest."""
    sizes = np.abs(values)
    k = np.log(448 / 2.0**-9) / np.log(sizes.max() / sizes.min())
    stretched = sizes**k
    scale = stretched.max() / 448
    codes = torch.from_numpy(stretched / scale).to(torch.float32).to(torch.float8_e4m3fn).double().numpy()
    return np.sign(values) * (codes * scale) ** (1 / k)


@pytest.mark.parametrize("decades", [0.5, 2.0, 5.3, 9.0])
def test_a_group_by_its_formula(decades: float) -> None:
    values = spread(128, decades)
    found = dequantize(*quantize(values, 128, True), 128)
    wanted = by_formula(values.double().numpy())
    # an fp32 power, and a number in the middle of two codes goes either way: one in a hundred
    apart = np.abs(found.numpy() - wanted) > 1e-4 * np.abs(wanted)
    assert apart.mean() <= 0.02
    k = math.log(448 / 2**-9) / math.log(float(values.abs().max() / values.abs().min()))
    assert float(quantize(values, 128, True)[1][1]) == pytest.approx(k, rel=1e-4)


def test_nothing_becomes_zero_and_nearly_equal_numbers_use_all_codes() -> None:
    wide, narrow = spread(1024, 12.0), spread(1024, 0.3)
    assert (dequantize(*quantize(wide, 128, True), 128) != 0).all()
    assert (dequantize(*quantize(wide, 128, False), 128) == 0).any()
    errors = [float((dequantize(*quantize(narrow, 128, on), 128) / narrow - 1).abs().mean()) for on in (True, False)]
    assert errors[0] < errors[1] / 4


def test_zeros_ones_and_ends_of_groups_are_kept() -> None:
    for values in (
        torch.zeros(5),
        torch.tensor([[1.0, 0.0], [-1.0, 1.0]]),
        torch.tensor([3.0]),
        torch.full((130,), -2.5e-7),
    ):
        codes, ranges = quantize(values, 128, True)
        assert codes.dtype == KIND and codes.shape == values.shape and ranges.shape == (2, -(-values.numel() // 128))
        torch.testing.assert_close(dequantize(codes, ranges, 128), values, rtol=1e-6, atol=0)
    # a group of its own behind the 128th number, whose range is its own
    values = torch.cat((torch.full((128,), 100.0), torch.tensor([1e-9, 3e-9])))
    torch.testing.assert_close(dequantize(*quantize(values, 128, True), 128), values, rtol=1e-3, atol=0)


def recipe(optimizer: Config, states: States = FP8, **more: Any) -> Recipe:
    return Recipe(optimizer=optimizer, schedule=Cosine(), average=Ema(), clip=1.0, optimizer_states=states, **more)


def test_fp32_is_the_default_and_the_methods_own() -> None:
    plain = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Last())
    assert plain.optimizer_states == States() and plain.optimizer_method is plain.optimizer


@pytest.mark.parametrize("method", CODED, ids=lambda method: method.__name__)
def test_every_optimizer_learns_with_moments_of_a_byte(method: Any, tmp_path: Path) -> None:
    model = toy_model(seed=1)
    optimizer = Keeping(method(), FP8).build(list(model.named_parameters()), roles_of(model))
    before, held = batch_of(model).loss(slice(0, 4))[0], 0
    for step in range(4):
        optimizer.begin(step)
        optimizer.zero_grad(set_to_none=True)
        batch_of(model).loss(slice(0, 4))[0].backward()
        optimizer.step()
    for state in optimizer.state.values():
        assert not set(MOMENTS) & state.keys()
        held += sum(value.dtype == KIND for slot, value in state.items() if slot.endswith("_fp8"))
    assert held >= len(list(model.parameters())) - 3
    assert batch_of(model).loss(slice(0, 4))[0] < before
    ends = [fit(recipe(method(), states), tmp_path / str(states.expand)).state_dict() for states in (FP8, States())]
    assert not all(torch.equal(weight, ends[1][name]) for name, weight in ends[0].items())


@pytest.mark.parametrize("method", [AdamW(), Muon()], ids=lambda method: method.name)
def test_a_run_that_was_stopped_ends_in_the_same_bytes(method: Config, tmp_path: Path) -> None:
    whole = fit(recipe(method), tmp_path / "whole").state_dict()
    with pytest.raises(Stopped):
        fit(recipe(method), tmp_path / "cut", 4)
    resumed = fit(recipe(method), tmp_path / "cut").state_dict()
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


def test_every_parameter_counts(tmp_path: Path) -> None:
    tries = [States(), FP8, States(format="fp8", group=64), States(format="fp8", expand=False)]
    made = [fit(recipe(AdamW(), one), tmp_path / str(n)).blocks[0].ffn.up.weight for n, one in enumerate(tries)]
    assert all(not torch.equal(made[a], made[b]) for a in range(4) for b in range(a))


def test_adamw_by_hand() -> None:
    """Two updates of one weight of two numbers: moments are coded behind the first, and decoded before the second."""
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    optimizer = Keeping(AdamW(lr=0.1, weight_decay=0.0, eps=1e-12), FP8).build(
        [("up.weight", weight)], {"up.weight": "matrix"}
    )
    mean = square = torch.zeros(1, 2)
    expected = weight.detach().clone()
    for step, grad in enumerate((torch.tensor([[0.3, -0.1]]), torch.tensor([[-0.2, 0.4]])), 1):
        weight.grad = grad
        optimizer.step()
        mean, square = 0.9 * mean + 0.1 * grad, 0.95 * square + 0.05 * grad**2
        expected -= 0.1 * (mean / (1 - 0.9**step)) / (square / (1 - 0.95**step)).sqrt()
        mean, square = (dequantize(*quantize(moment, 128, True), 128) for moment in (mean, square))
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-6)


def test_what_has_no_moments_or_sends_them_is_refused_in_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="optimizer_states: onebit_adam exchanges .*: set format to fp32"):
        fit(recipe(OneBitAdam()), tmp_path)
    with pytest.raises(
        ValueError, match="linear: relora clears moments, which must be fp32: set optimizer_states.format"
    ):
        recipe(AdamW(), linear=ReLoRA(every=2))
    monkeypatch.setenv("TOKENMILL_PARALLEL", "fsdp")
    with pytest.raises(
        ConfigError, match="adamw keeps its moments in groups of numbers, which TOKENMILL_PARALLEL=fsdp does not"
    ):
        refuse(AdamW(), coded=True)


def test_a_forecast_counts_the_bytes_of_moments() -> None:
    """Of a checkpoint those that are kept; of memory those besides what an update holds of one weight."""

    def of(states: States) -> tuple[float, float]:
        model = toy_model(seed=1, width=64, ffn_width=128, tied=False)
        how = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Last(), optimizer_states=states)
        return dry_run_step(
            lambda: Step(model, batch_of(model)), how, 10, None, False
        ).state_bytes, model.num_parameters()

    (coded, count), (plain, _) = of(FP8), of(States())
    matrices = 8 * count / 128  # and a group or less of each vector
    assert 6 * count - 2 * matrices - 16 * 64 < plain - coded < 6 * count - matrices + 1
    assert FP8.bytes_a_number == 1.0625 and States().bytes_a_number == 4
    model = toy_model(seed=1)
    parallel = Exact(1)
    parallel.distribute(model, recipe(AdamW()).optimizer_method)
    assert parallel.bytes_a_weight == pytest.approx(20 - 2 * (4 - 1.0625))
    parallel.distribute(toy_model(seed=1), AdamW())
    assert parallel.bytes_a_weight == 20


@pytest.mark.parametrize("method", [Soap(), SoapMuon()], ids=lambda method: method.name)
def test_squares_over_rows_and_columns_are_of_the_memory(method: Any) -> None:
    """As many bytes a weight as the optimizer holds of them after an update; the default's figure is what it was."""
    model, parallel = toy_model(seed=1), Exact(1)
    optimizer = parallel.distribute(model, method)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    squares = sum(t.nbytes for slots in optimizer.state.values() for slot, t in slots.items() if slot in SIDES)
    assert squares > 0 and parallel.bytes_a_weight == pytest.approx(20 + squares / model.num_parameters())
    parallel.distribute(toy_model(seed=1), Muon())
    assert parallel.bytes_a_weight == 20.0

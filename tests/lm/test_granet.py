"""GraNet on numbers worked by hand, and runs that were stopped."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from lm.averages import Ema
from lm.config import ConfigError
from lm.linears import GraNet
from lm.linears.granet import density_at, regrown, thinned
from lm.optimizers import AdamW, Muon
from lm.schedules import Cosine
from lm.training.recipe import Recipe
from tasks.core.log import Stopped
from tests.lm.test_linears import fit


def layer_of(method: GraNet, *rows: list[float]) -> Any:
    plain = nn.Linear(len(rows[0]), len(rows), bias=False)
    plain.weight = nn.Parameter(torch.tensor(rows))
    return method.build("blocks.0.ffn.up", plain)


def test_the_density_falls_by_a_cube() -> None:
    found = [density_at(step, 0.9, 0.1, 2, 6) for step in (0, 2, 3, 4, 6, 9)]
    assert found == pytest.approx([0.9, 0.9, 0.1 + 0.8 * 0.75**3, 0.1 + 0.8 * 0.5**3, 0.1, 0.1])


def test_the_share_that_is_replaced_falls_by_half_a_cosine() -> None:
    method = GraNet(regrow=0.4, regrow_until=100)
    assert [method.share_at(step) for step in (0, 50, 100, 150)] == pytest.approx([0.4, 0.2, 0.0, 0.0])
    assert method.share_at(25) == pytest.approx(0.2 * (1 + math.sqrt(0.5)))


def test_what_goes_is_smallest_over_all_matrices() -> None:
    weights = [torch.tensor([[1.0, -6.0], [2.0, 0.0]]), torch.tensor([[9.0, -8.0, 0.5, 3.0]])]
    masks = [torch.tensor([[True, True], [True, False]]), torch.tensor([[True, False, True, True]])]
    # 4 of 8: of 9, 6, 3, 2, 1 and 0.5 that are there
    left = thinned(weights, masks, 0.5)
    assert [mask.int().tolist() for mask in left] == [[[0, 1], [1, 0]], [[1, 0, 0, 1]]]
    # more than are there are not made
    assert [mask.int().tolist() for mask in thinned(weights, masks, 1.0)] == [mask.int().tolist() for mask in masks]


def test_what_comes_back_has_the_largest_gradient() -> None:
    weight, grad = torch.tensor([[1.0, -6.0, 2.0, 0.0, 0.0]]), torch.tensor([[0.5, 9.0, 0.1, -0.7, 0.2]])
    mask = torch.tensor([[True, True, True, False, False]])
    # of three a half, rounded up, goes: 1 and 2; of what is then outside 0.7 and 0.5 are largest, and 1 comes back itself
    assert regrown(weight, grad, mask, 0.5).int().tolist() == [[1, 1, 0, 1, 0]]
    assert torch.equal(regrown(weight, grad, mask, 0.0), mask)


def test_a_step_by_hand() -> None:
    method = GraNet(density=0.25, first_density=0.5, every=2, prune_until=2, regrow=0.5, regrow_until=4)
    layer = layer_of(method, [1.0, 2.0, 3.0, 4.0])
    layer.load({"outside": torch.zeros(()), "mask_OI": torch.tensor([[True, False, False, True]])})
    layer.weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    x = torch.tensor([1.0, 7.0, 5.0, 2.0])
    assert layer(x).item() == 9.0  # what is outside takes no part
    for step, there, values in (
        (0, [1, 0, 0, 1], [1.0, 0.0, 0.0, 4.0]),  # no change in the first step
        # behind the second one in four is left, the 4, which is half of itself rounded up: it goes, and where 7 was, one comes
        (1, [0, 1, 0, 0], [0.0, 0.0, 0.0, 0.0]),
    ):
        layer.weight.grad = None
        layer(x).sum().backward()
        assert layer.weight.grad.tolist() == [x.tolist()]  # of all weights
        method.after(step, {"blocks.0.ffn.up": layer})
        assert layer.mask().int().tolist() == [there] and layer.weight.tolist() == [values]


@pytest.mark.parametrize("optimizer", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_a_run_ends_with_its_density_in_other_places(optimizer: Any, tmp_path: Path) -> None:
    method = GraNet(density=0.2, every=1, prune_until=4, regrow_until=6)
    how = Recipe(optimizer=optimizer, schedule=Cosine(), average=Ema(), clip=1.0, linear=method)
    end, same = fit(how, tmp_path / "one").state_dict(), GraNet(density=0.2, first_density=0.2)
    fixed = fit(how.model_copy(update={"linear": same}), tmp_path / "fixed").state_dict()
    names = [name for name in end if ".attention." in name or ".ffn." in name]
    names = [name for name in names if "norm" not in name]
    weights = sum(end[name].numel() for name in names)
    # a weight that came back in the last change may be 0 still
    assert 0.15 * weights < sum(int((end[name] != 0).sum()) for name in names) <= 0.2 * weights
    assert any(not torch.equal(end[name] != 0, fixed[name] != 0) for name in names)


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_run_that_was_stopped_goes_on(after: int, tmp_path: Path) -> None:
    method = GraNet(every=2, prune_until=4, regrow_until=6)
    how = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema(), clip=1.0, linear=method)
    whole = fit(how, tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(how, tmp_path / "cut", after)
    resumed = fit(how, tmp_path / "cut").state_dict()
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"first_density": 0.1}, "first_density: 0.1 is less than the density of 0.2 at the end"),
        ({"prune_from": 80}, "prune_until: 80 is not after prune_from, 80"),
        ({"regrow_until": 70}, "regrow_until: 70 is before prune_until, 80"),
        (
            {"prune_until": 9, "regrow_until": 9},
            "every: masks change for the last time at step 0, before prune_until, 9, so that the density is not reached: set "
            "regrow_until to 10 or more",
        ),
        (
            {"prune_until": 11, "regrow_until": 19},
            "last time at step 10, before prune_until, 11,.* set regrow_until to 20 or more",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        GraNet(**settings)


@given(st.integers(1, 30), st.integers(0, 30), st.integers(1, 12), st.floats(0.1, 0.4))
def test_every_run_that_is_allowed_reaches_its_density(until: int, more: int, every: int, density: float) -> None:
    """And a density that is there from the beginning needs no change."""
    times = {"prune_until": until, "regrow_until": until + more, "every": every}
    assert GraNet(density=0.5, first_density=0.5, **times).density == 0.5
    try:
        method = GraNet(density=density, regrow=0.0, **times)
    except ValidationError:
        return
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    layer = layer_of(method, *weight.tolist())
    for step in range(until + more):
        layer.weight.grad = torch.ones_like(layer.weight)
        method.after(step, {"blocks.0.ffn.up": layer})
    assert int(layer.mask().sum()) == int(density * 8 * 16)


def test_gradients_that_have_gone_are_one_line() -> None:
    layer = layer_of(GraNet(), [1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ConfigError, match="linear: granet needs whole gradients after a step: set TOKENMILL_PARALLEL"):
        GraNet().after(0, {"blocks.0.ffn.up": layer})

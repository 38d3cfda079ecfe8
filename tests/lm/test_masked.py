"""Matrices with some weights left out, on numbers worked by hand, and runs that were stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from lm.averages import Ema, Last
from lm.config import ConfigError
from lm.linears import Masked
from lm.linears.masked import densities_by_sides, largest_of, random_mask
from lm.optimizers import AdamW, Muon
from lm.schedules import Cosine
from lm.training.recipe import Recipe
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.test_linears import fit


def layer_of(method: Masked, *rows: list[float]) -> Any:
    plain = nn.Linear(len(rows[0]), len(rows), bias=False)
    plain.weight = nn.Parameter(torch.tensor(rows))
    return method.build("blocks.0.ffn.up", plain)


def recipe(method: Masked, optimizer: Any = None, average: Any = None) -> Recipe:
    return Recipe(optimizer=optimizer or AdamW(), schedule=Cosine(), average=average or Last(), clip=1.0, linear=method)


def masks_of(method: Masked) -> dict[str, Tensor]:
    model = toy_model(seed=1)
    model.reparametrize(method)
    return {f"{name}.weight": layer.mask().clone() for name, layer in model.held.items()}


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.01, 1), st.integers(0, 3))
def test_a_drawn_mask_has_its_density(rows: int, columns: int, density: float, seed: int) -> None:
    made = random_mask(rows, columns, density, torch.Generator().manual_seed(seed))
    assert made.shape == (rows, columns) and int(made.sum()) == max(1, round(density * rows * columns))
    assert torch.equal(made, random_mask(rows, columns, density, torch.Generator().manual_seed(seed)))


def test_masks_of_layers_and_seeds_differ() -> None:
    first, second = masks_of(Masked()), masks_of(Masked(seed=1))
    one, other = (first[f"blocks.0.attention.{name}.weight"] for name in ("key", "value"))
    assert not torch.equal(one, other) and not torch.equal(one, second["blocks.0.attention.key.weight"])
    assert all(mask.float().mean() == 0.5 for mask in first.values())


def test_densities_by_sides_by_hand() -> None:
    """Sides of 2 and 2 over 4 weights are 1, sides of 8 and 8 over 64 are 1/4: of 34 weights of 68 the first would have 1.7 times
    what it has, so that it is dense, and the other has the 30 that are left."""
    assert densities_by_sides({"a": (2, 2), "b": (8, 8)}, 0.5) == {"a": 1.0, "b": pytest.approx(30 / 64)}
    # 6 of 20 weights, by sides that are 4 and 8 in all: a half and a quarter
    assert densities_by_sides({"a": (2, 2), "b": (4, 4)}, 0.3) == {"a": pytest.approx(0.5), "b": pytest.approx(0.25)}
    assert densities_by_sides({"a": (2, 2), "b": (4, 4)}, 1.0) == {"a": 1.0, "b": 1.0}
    short, long = (masks_of(Masked(layout="by_sides"))[f"blocks.0.{n}.weight"] for n in ("attention.key", "ffn.up"))
    assert short.float().mean() > 0.55 > 0.48 > long.float().mean()


def test_the_largest_of_each_group_by_hand() -> None:
    rows = [[1.0, -3.0, 2.0, 0.0, 1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.1, -4.0, 5.0, -6.0, 3.0]]
    made = largest_of(torch.tensor(rows), 2, 4)
    assert made.int().tolist() == [[0, 1, 1, 0, 1, 1, 0, 0], [1, 0, 0, 1, 0, 1, 1, 0]]
    assert largest_of(torch.tensor(rows), 1, 8).int().tolist() == [[0, 1, *[0] * 6], [*[0] * 6, 1, 0]]


def test_a_drawn_mask_leaves_out_zeros_that_have_no_gradient() -> None:
    layer = layer_of(Masked(density=0.25), [1.0, 2.0], [3.0, 4.0])
    layer(torch.tensor([1.0, 10.0])).sum().backward()
    mask = layer.mask()
    assert int(mask.sum()) == 1 and torch.equal(layer.weight != 0, mask)
    assert torch.equal(layer.weight.grad, torch.tensor([[1.0, 10.0]] * 2) * mask)


def test_a_straight_gradient_by_hand() -> None:
    layer = layer_of(Masked(pattern="n_m", kept=1, group=2, pull=0.5), [1.0, -2.0, 4.0, 3.0])
    assert layer(torch.eye(4)).flatten().tolist() == [0.0, -2.0, 4.0, 0.0]
    (layer(torch.tensor([1.0, 2.0, 3.0, 4.0])).sum() + layer.penalty()).backward()
    # 0.5 / 2 (1^2 + 3^2), whose gradient is 0.5 W of the two that are left out
    assert layer.penalty().item() == 2.5 and layer.weight.grad.tolist() == [[1.5, 2.0, 3.0, 5.5]]
    assert layer.merged().weight.tolist() == [[0.0, -2.0, 4.0, 0.0]]
    assert layer_of(Masked(pattern="n_m", pull=0.0), [1.0] * 4).penalty() is None


def test_a_share_that_decays_by_hand() -> None:
    method = Masked(pattern="n_m", kept=1, group=2, gradient="decaying", decay_from=2, decay_until=6)
    assert [method.share_outside(step) for step in (0, 2, 3, 5, 6, 9)] == [1.0, 1.0, 0.75, 0.25, 0.0, 0.0]
    layer = layer_of(method, [1.0, -2.0, 4.0, 3.0])
    assert layer.penalty() is None
    for step, share in ((0, 1.0), (3, 0.75), (6, 0.0)):
        layer.begin(step, False)
        layer.weight.grad = None
        layer(torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
        assert layer.weight.grad.tolist() == [[share, 2.0, 3.0, 4 * share]]
        assert layer.merged().weight.tolist() == [[share, -2.0, 4.0, 3 * share]]


@pytest.mark.parametrize("optimizer", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_zeros_are_zeros_in_the_model_that_a_run_ends_with(optimizer: Any, tmp_path: Path) -> None:
    """Muon moves what has no gradient, too."""
    masks = masks_of(Masked(density=0.3))
    ends = fit(recipe(Masked(density=0.3), optimizer, Ema()), tmp_path / "random").state_dict()
    assert len(masks) == 14 and all(torch.equal(ends[name] != 0, mask) for name, mask in masks.items())
    for number, more in enumerate(({"gradient": "straight"}, {"gradient": "decaying", "decay_until": 4})):
        method = Masked(pattern="n_m", kept=1, group=8, **more)
        ends = fit(recipe(method, optimizer), tmp_path / str(number)).state_dict()
        for name in masks:
            assert ((ends[name].view(-1, 8) != 0).sum(1) == 1).all(), name


@pytest.mark.parametrize("optimizer", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_sparse_and_then_dense(optimizer: Any, tmp_path: Path) -> None:
    """Until the step all that is left out is zeros; in the step after it, all weights have moved."""

    def ended(until: int) -> dict[str, Tensor]:
        return fit(recipe(Masked(dense_from=until), optimizer), tmp_path / str(until)).state_dict()

    masks, last, never = masks_of(Masked()), ended(5), ended(6)
    for name, mask in masks.items():
        assert torch.equal(never[name] != 0, mask) and (last[name] != 0).all(), name
        # one step of the last rate, 0.1 of the whole and more; a weight that had moved before were farther off
        assert last[name][~mask].abs().max() < 2 * optimizer.lr, name


def test_what_an_update_puts_outside_is_taken_out_until_the_mask_is_lifted() -> None:
    method = Masked(density=0.25, dense_from=2)
    layer = layer_of(method, [1.0, 2.0], [3.0, 4.0])
    for step in range(4):
        layer.begin(step, False)
        assert layer.outside == (step >= 2)
        with torch.no_grad():
            layer.weight.fill_(5.0)
        method.after(step, {"blocks.0.ffn.up": layer})
        assert torch.equal(layer.weight != 0, layer.mask()) == (step < 2)
        assert layer.merged().weight.count_nonzero() == (1 if step < 2 else 4)


@pytest.mark.parametrize("after", [2, 4])
@pytest.mark.parametrize(
    "method",
    [Masked(dense_from=3), Masked(pattern="n_m"), Masked(pattern="n_m", gradient="decaying", decay_until=5)],
    ids=["freed", "straight", "decaying"],
)
def test_a_run_that_was_stopped_goes_on(method: Masked, after: int, tmp_path: Path) -> None:
    whole = fit(recipe(method, average=Ema()), tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(recipe(method, average=Ema()), tmp_path / "cut", after)
    resumed = fit(recipe(method, average=Ema()), tmp_path / "cut").state_dict()
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.state_dict().items())


def test_a_run_goes_on_with_the_mask_of_its_checkpoint() -> None:
    layer = layer_of(Masked(), [1.0, 2.0], [3.0, 4.0])
    turned = {"outside": torch.ones(()), "drawn_OI": ~layer.mask()}
    layer.load(turned)
    assert all(torch.equal(layer.state()[name], value) for name, value in turned.items())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kept": 4}, "kept: 4 of a group of 4 leaves nothing out: lower it"),
        ({"decay_from": 100}, "decay_until: 100 is not after decay_from, 100"),
        ({"pattern": "n_m", "dense_from": 3}, "dense_from: is of pattern random"),
    ],
)
def test_parameters_that_do_not_fit_are_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Masked(**settings)


def test_inputs_that_are_no_whole_groups_are_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"linear\.group: the 32 inputs of blocks\.0\.attention\.query are no whole groups"
    ):
        toy_model().reparametrize(Masked(pattern="n_m", group=5))


@pytest.mark.parametrize(("method", "key"), [(Masked(dense_from=3), "dense_from"), (Masked(pattern="n_m"), "pull")])
def test_a_part_of_a_matrix_is_refused_where_the_whole_is_needed(method: Masked, key: str) -> None:
    layer = layer_of(method, [1.0, 2.0, 3.0, 4.0])
    layer.weight.data = torch.empty(0)
    with pytest.raises(ConfigError, match=rf"linear\.{key}: masked needs whole matrices for it"):
        layer.begin(0, False)

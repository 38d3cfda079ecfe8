"""Layers of VeRA, which share what they do not train, and the directions that AdaLoRA keeps, on numbers worked by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

from lm.averages import Ema, Last, Lawa
from lm.config import ConfigError
from lm.linears import AdaLoRA, VeRA
from lm.linears.adalora import budget
from lm.linears.base import flops_of
from lm.optimizers import AdamW, ScheduleFree
from lm.schedules import Cosine
from lm.training.loop import train
from lm.training.memory import positions_in, saved_activation_bytes
from lm.training.recipe import Recipe
from lm.training.reparametrized import ReparametrizedLayers
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.test_linear_methods import layer_of, put
from tests.lm.test_linears import batch_of, fit, held
from tests.lm.test_training import Recorder


def test_vera_by_hand() -> None:
    layer = layer_of(VeRA(rank=2, inner=0.5), [1.0, 2.0], [3.0, 4.0])
    assert layer.inner.tolist() == [0.5, 0.5] and layer.outer.tolist() == [0.0, 0.0]
    layer.up_OR, layer.down_RI = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    put(layer, inner=[2.0, -1.0], outer=[1.0, 10.0])
    # diag(d) A = ((2, 0), (0, -2)); B of it = ((2, 0), (2, -2)); rows times b = ((2, 0), (20, -20))
    assert layer.merged().weight.tolist() == [[3.0, 2.0], [23.0, -16.0]]
    assert layer(torch.tensor([1.0, 1.0])).tolist() == [5.0, 7.0]
    assert flops_of(layer) == 4 * (4 + 4 + 4)


def test_layers_of_vera_share_what_they_do_not_train() -> None:
    model = toy_model()
    model.reparametrize(VeRA(rank=5, matrices=["attention", "0.ffn.down"]))
    layers = model.held
    assert len(layers) == 9 and {layer.up_OR.untyped_storage().data_ptr() for layer in layers.values()} == {
        layers["blocks.0.ffn.down"].up_OR.untyped_storage().data_ptr()
    }
    # as wide as the widest of those adapted: 48 inputs of ffn.down, 32 outputs
    assert len(layers["blocks.0.ffn.down"].down_RI[0]) == 48 and len(layers["blocks.1.attention.key"].up_OR) == 16
    assert torch.equal(layers["blocks.0.ffn.down"].down_RI[:, :32], layers["blocks.1.attention.query"].down_RI)
    assert model.num_trained() == 9 * 5 + 2 * (32 + 16 + 16 + 32) + 32
    # uniform to sqrt(6 / 48) and sqrt(6 / 5)
    assert 0.95 < layers["blocks.0.ffn.down"].down_RI.abs().max() / (6 / 48) ** 0.5 <= 1
    assert 0.95 < layers["blocks.0.ffn.down"].up_OR.abs().max() / (6 / 5) ** 0.5 <= 1


def test_memory_counts_what_layers_share_once() -> None:
    model, memory = held(VeRA), 1e8
    first, two = (saved_activation_bytes(model, batch_of(model), rows) for rows in (1, 2))
    each = two - first
    room = 0.6 * memory - 4 * 256 * (48 + 48) - (first - each)
    assert positions_in(memory, model, batch_of(model), 0.0, 0.0) == int(room * 12 / each) > 0


def test_the_budget_of_adalora_falls_by_a_cube() -> None:
    found = [budget(step, 100, 20, 2, 6) for step in range(9)]
    # 1, 3/4, 1/2, 1/4 and 0 cubed of the 80 that go
    assert found == [100, 100, 100, 20 + 33, 20 + 10, 20 + 1, 20, 20, 20]


def test_adalora_by_hand() -> None:
    method = AdaLoRA(rank=1, first_rank=2, alpha=4.0, cut_until=2, beta1=0.5, beta2=0.25, orthogonality=3.0)
    layer = layer_of(method, [1.0, 2.0], [3.0, 4.0])
    assert layer.values.tolist() == [0.0, 0.0] and layer.merged().weight.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    put(layer, down=[[1.0, 0.0], [0.0, 2.0]], up=[[1.0, 0.0], [0.0, 1.0]], values=[3.0, -1.0])
    # 4 / 2 times ((3, 0), (0, -2))
    assert layer.merged().weight.tolist() == [[7.0, 2.0], [3.0, 0.0]]
    assert layer(torch.tensor([1.0, 1.0])).tolist() == [9.0, 3.0]
    # the rows of the first, (1, 0) and (0, 2), are 3 from orthonormal; the columns of the other are so; 3 over 2 of one layer
    assert layer.penalty().item() == pytest.approx(3.0 / 2 * 3.0)
    for grad in (1.0, 2.0):
        for weight in (layer.down, layer.up, layer.values):
            weight.grad = torch.full_like(weight, grad)
        layer.update_sensitivity(0.5, 0.25)
    # of the l 3: |3| then |6|: means 1.5, 3.75; distances 1.5 and 2.25: 0.75 * 1.5, then a quarter of that and 0.75 * 2.25
    assert layer.sensitivity_values.tolist() == pytest.approx([3.75, 1.25])
    assert layer.uncertainty_values.tolist() == pytest.approx([0.28125 + 1.6875, 0.09375 + 0.5625])
    unit = 1.25 * 0.65625  # the product for an entry of 1; it is quadratic
    # rows (1, 0) and (0, 2) of down have means 1/2 and 4/2, columns (1, 0) and (0, 1) of up 1/2 and 1/2
    assert layer.scores().tolist() == pytest.approx([unit * (9 + 0.5 + 0.5), unit * (1 + 2 + 0.5)])
    method.after(2, {"layer": layer})
    assert layer.kept_R.tolist() == [True, False] and layer.values.tolist() == [3.0, 0.0]
    put(layer, values=[5.0, 6.0])
    method.after(3, {"layer": layer})
    assert layer.values.tolist() == [5.0, 0.0]


def test_directions_go_where_they_matter_least_over_all_layers() -> None:
    model, method = toy_model(seed=1), AdaLoRA(rank=3, first_rank=4, cut_until=2)
    model.reparametrize(method)
    layers = list(model.held.values())
    with torch.no_grad():
        for number, layer in enumerate(layers):
            layer.values.fill_(1.0)
            for kind in ("sensitivity", "uncertainty"):
                layer.get_buffer(f"{kind}_values").fill_(1.0 + number)
    method.after(2, model.held)
    # 14 of 56 go: three layers, and of the fourth two, with which the two that are as low go as well
    assert [int(layer.kept_R.sum()) for layer in layers] == [0, 0, 0, 0, *[4] * 10]
    assert all(torch.equal(layer.values != 0, layer.kept_R) for layer in layers)


@pytest.mark.parametrize(
    ("average", "optimizer"),
    [(Last(), AdamW()), (Ema(), AdamW()), (Lawa(checkpoints=8, every=1), AdamW()), (Last(), ScheduleFree())],
    ids=["last", "ema", "lawa", "schedule_free"],
)
def test_what_is_cut_is_cut_in_the_model_that_a_run_ends_with(average: Any, optimizer: Any, tmp_path: Path) -> None:
    """A mean of weights has some from before the last cut, and Schedule-Free AdamW ends with one, too."""
    method = AdaLoRA(rank=2, first_rank=4, cut_until=3, keep=True)
    start, model = toy_model(seed=1).state_dict(), toy_model(seed=1)
    layers = {
        name for name, module in model.named_modules() if name.startswith("blocks.") and type(module) is nn.Linear
    }
    how = Recipe(optimizer=optimizer, schedule=Cosine(), average=average, linear=method)
    train(model, how, 8, lambda step: batch_of(model), Recorder(tmp_path))
    assert model.artifact is not None
    kept = {name: len(parts["down"]) for name, parts in model.artifact.layers.items()}
    assert sum(kept.values()) == 2 * 14
    for layer in layers:
        change = model.get_submodule(layer).weight.detach() - start[f"{layer}.weight"]
        # of fp32 weights of 0.02, whose rounding is 1e-9
        assert int((torch.linalg.svdvals(change) > 1e-7).sum()) == kept.get(layer, 0), layer


def test_a_run_that_ends_before_the_last_cut_has_what_its_weights_say() -> None:
    """A direction that went in a cut before the last one may come back."""
    method = AdaLoRA(rank=1, first_rank=2, cut_until=4)
    layer = layer_of(method, [1.0, 2.0], [3.0, 4.0])
    put(layer, down=[[1.0, 0.0], [0.0, 2.0]], up=[[1.0, 0.0], [0.0, 1.0]], values=[3.0, -1.0])
    for step in range(3):
        for weight in (layer.down, layer.up, layer.values):
            weight.grad = torch.full_like(weight, 1.0 + step)
        method.after(step, {"layer": layer})
    assert layer.values.tolist() == [3.0, 0.0]
    put(layer, values=[3.0, -1.0])
    # 16 / 2 times ((3, 0), (0, -2))
    assert layer.merged().weight.tolist() == [[25.0, 2.0], [3.0, -12.0]]
    assert len(method.adapter_state({"layer": layer}).layers["layer"]["down"]) == 2


def test_adalora_that_does_not_fall_is_one_line() -> None:
    with pytest.raises(ValidationError, match="first_rank: 7 is less than the rank of 8 that is kept"):
        AdaLoRA(first_rank=7)
    with pytest.raises(ValidationError, match="cut_until: 5 is not after cut_from, 5"):
        AdaLoRA(cut_from=5, cut_until=5)


def test_adalora_without_whole_gradients_is_refused() -> None:
    model = held(AdaLoRA)
    with pytest.raises(
        ConfigError, match="linear: adalora needs whole gradients after a step: set TOKENMILL_PARALLEL to exact"
    ):
        ReparametrizedLayers(model).after(0, 1.0, 1.0)


@pytest.mark.parametrize("after", [2, 4])
def test_adalora_that_was_stopped_goes_on_with_what_it_knows(after: int, tmp_path: Path) -> None:
    """While directions go, and behind it."""
    linear = AdaLoRA(rank=2, first_rank=4, cut_until=3)
    recipe = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema(), linear=linear)
    whole = fit(recipe, tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(recipe, tmp_path / "cut", after)
    (path,) = (tmp_path / "cut").glob("step-*.safetensors")
    kept = [
        t for name, t in load_file(path).items() if name.startswith("components.linear.") and name.endswith(".kept_R")
    ]
    assert len(kept) == 14 and (sum(int(t.sum()) for t in kept) == 2 * 14) == (after == 4)
    resumed = fit(recipe, tmp_path / "cut").state_dict()
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.state_dict().items())

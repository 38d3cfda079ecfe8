"""What every way to round products must be, whichever there are: a new file in lm/precisions is held to it by itself."""

from itertools import combinations, count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lm import precisions
from lm.averages import Ema
from lm.block import Block
from lm.config import Config, ConfigError, methods_of
from lm.linears import Dense, LoRA
from lm.linears.base import dense_flops, flops_of, roles_of
from lm.model import Decoder
from lm.optimizers import AdamW
from lm.precisions import BitSplit, Jetfire, Unrounded
from lm.precisions.base import RoundedLinear
from lm.schedules import Cosine
from lm.training.batch import Batch, Metrics, backward
from lm.training.data.conversations import token_logps
from lm.training.flops import flops_per_token
from lm.training.memory import saved_activation_bytes
from lm.training.recipe import Recipe
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.test_linears import fit
from tests.neighbours import neighbours

ROUNDING = [method for method in methods_of(precisions) if method is not Unrounded]
EVERY = pytest.mark.parametrize("method", ROUNDING, ids=lambda method: method.__name__)
IDS = torch.randint(0, 261, (16, 41), generator=torch.Generator().manual_seed(0))
# Cosine of the gradient with that of exact products, at least: of 8 bits, and of 4 with half of the rows
NEAR: dict[type[Config], float] = {BitSplit: 0.9}
# Those that keep an input in a byte a number; what LSQ learns needs the input itself
SMALL = [method for method in ROUNDING if method is not BitSplit]
LISTS: dict[str, list[Any]] = {"matrices": [["up"], ["attention"], ["0.ffn"]]}
BINDING: dict[type[Config], dict[str, Any]] = {BitSplit: {"block": 8}}


def held(method: Config, **shape: Any) -> Decoder:
    model = toy_model(seed=1, **shape)
    model.reparametrize(method)
    return model


def batch_of(model: Decoder) -> Batch:
    def loss(rows: slice) -> tuple[Tensor, Metrics]:
        everywhere = torch.arange((rows.stop - rows.start) * 40)
        return -token_logps(model, IDS[rows], everywhere).sum() / 640, {}

    return Batch(16, 40, 640, loss)


def gradients(model: Decoder, positions: int = 640) -> dict[str, Tensor]:
    model.zero_grad()
    backward(batch_of(model), positions)
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def near(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Cosine of the gradients of all weights that both have."""
    flat = [torch.cat([grads[name].flatten() for name in sorted(one.keys() & other.keys())]) for grads in (one, other)]
    return float(torch.cosine_similarity(*flat, dim=0))


def test_none_is_the_default_and_holds_nothing() -> None:
    recipe = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema())
    assert recipe.rounding == Unrounded() and recipe.linear_method is recipe.linear == Dense()
    model = held(Unrounded())
    assert not model.held and {type(m) for m in model.blocks.modules() if isinstance(m, nn.Linear)} == {nn.Linear}


@EVERY
def test_a_recipe_holds_matrices_by_its_rounding_and_refuses_another_holder(method: type[Config]) -> None:
    parts: dict[str, Any] = {"optimizer": AdamW(), "schedule": Cosine(), "average": Ema(), "rounding": method()}
    assert Recipe(**parts).linear_method == method()
    with pytest.raises(ValueError, match=f"rounding: {method().name} rounds the products of dense .*: set linear to"):
        Recipe(**parts, linear=LoRA())


@EVERY
def test_hidden_matrices_are_rounded_and_master_weights_come_back_to_the_bit(method: type[Config]) -> None:
    dense, model = toy_model(seed=1, tied=False), held(method(), tied=False)
    matrices = {name for name, layer in dense.blocks.named_modules() if isinstance(layer, nn.Linear)}
    assert {name.removeprefix("blocks.") for name in model.held} == matrices
    assert all(isinstance(layer, RoundedLinear) for layer in model.held.values())
    with torch.no_grad():
        wanted, made = dense(IDS), model(IDS)
        assert not torch.equal(made, wanted) and (made - wanted).norm() < 0.2 * wanted.norm()
    model.merge()
    assert dense.state_dict().keys() == model.state_dict().keys() and not model.held
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in dense.state_dict().items())


@EVERY
def test_a_token_sees_other_rows_and_later_tokens_only_where_that_is_said(method: type[Config]) -> None:
    model = held(method()).eval()
    changed = IDS[:1].clone()
    changed[0, 20:] = IDS[1, 20:]
    with torch.no_grad():
        alone, beside, before = model(IDS[:1]), model(IDS)[:1], model(changed)[:, :20]
    for found, wanted in ((beside, alone), (before, alone[:, :20])):
        apart = (found - wanted).abs().max() > 1e-3 * alone.abs().max()
        assert apart == method.spans_rows


@EVERY
def test_routers_and_what_makes_filters_stay_exact(method: type[Config]) -> None:
    experts = held(method(), feed_forward={"name": "experts", "experts": 3, "active": 2})
    assert not any("router" in name for name in experts.held) and any("experts" in name for name in experts.held)
    hyena = held(method(), mixer={"name": "hyena"})
    assert not any("filters" in name for name in hyena.held) and any("project" in name for name in hyena.held)
    for model in (experts, hyena):
        assert all(torch.isfinite(grad).all() for grad in gradients(model).values())


@EVERY
def test_gradients_are_near_those_of_exact_products_and_every_number_has_one(method: type[Config]) -> None:
    model = held(method(), tied=False, qkv_bias=True)
    found = gradients(model)
    assert roles_of(model).keys() == dict(model.named_parameters()).keys() == found.keys()
    assert all(grad.abs().max() > 0 for grad in found.values())
    exact = gradients(toy_model(seed=1, tied=False, qkv_bias=True))
    assert NEAR.get(method, 0.99) < near(found, exact) < 1 - 1e-6


@EVERY
def test_under_autocast_results_have_its_dtype_and_weights_fp32_gradients(method: type[Config]) -> None:
    model, made = held(method()), []
    model.blocks[1].ffn.down.register_forward_hook(lambda module, inputs, result: made.append(result.dtype))
    plain = gradients(model)
    with torch.autocast("cpu", torch.bfloat16):
        low = gradients(model)
    assert made == [torch.float32, torch.bfloat16]
    assert {grad.dtype for grad in low.values()} == {torch.float32}
    assert near(low, plain) > NEAR.get(method, 0.99)


@EVERY
def test_layers_of_one_input_give_what_each_gives_alone(method: type[Config]) -> None:
    model = held(method())
    heads = model.blocks[0].attention
    layers = (heads.query, heads.key, heads.value)
    x, found = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1)), []
    for call in (lambda x: layers[0].together(x, layers), lambda x: tuple(layer(x) for layer in layers)):
        model.zero_grad()
        leaf = x.clone().requires_grad_()
        made = call(leaf)
        sum((y * torch.arange(1.0, y.shape[-1] + 1)).sum() for y in made).backward()
        found.append([*made, leaf.grad, *(layer.weight.grad for layer in layers)])
    for one, other in zip(*found, strict=True):
        # gradients of x are added in another order
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("method", SMALL, ids=lambda method: method.__name__)
@pytest.mark.parametrize("low", [False, True])
def test_an_input_is_kept_in_a_byte_a_number_and_once(method: type[Config], low: bool) -> None:
    """Of two layers of 640 tokens: 32 numbers in front of either part, 32 of attention, and 48 of SwiGLU, which all layers that
    read them keep together; and it takes less memory than what dense layers keep."""
    rounded, dense, kept = held(method()), toy_model(seed=1), dict[int, int]()

    def count(tensor: Tensor) -> Tensor:
        if tensor.dtype.itemsize == 1:
            kept[tensor.untyped_storage()._cdata] = tensor.numel()
        return tensor

    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = batch_of(rounded).loss(slice(0, 16))
        assert sum(kept.values()) == 2 * 640 * (32 + 32 + 32 + 48)
        assert saved_activation_bytes(rounded, batch_of(rounded), 16) < 0.9 * saved_activation_bytes(
            dense, batch_of(dense), 16
        )
    del loss


@EVERY
def test_flop_are_those_of_dense_products(method: type[Config]) -> None:
    model = held(method())
    assert flops_per_token(model, 40) == flops_per_token(toy_model(seed=1), 40)
    layer = model.blocks[0].ffn.up
    assert flops_of(layer) == dense_flops(layer.weight) == 6 * 32 * 48


@EVERY
def test_a_run_that_was_stopped_ends_in_the_same_bytes_and_learns(method: type[Config], tmp_path: Path) -> None:
    recipe = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema(), clip=1.0, rounding=method())
    whole, start = fit(recipe, tmp_path / "whole"), toy_model(seed=1)
    with pytest.raises(Stopped):
        fit(recipe, tmp_path / "cut", 4)
    resumed = fit(recipe, tmp_path / "cut").state_dict()
    assert resumed.keys() == start.state_dict().keys()
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.state_dict().items())
    with torch.no_grad():
        assert batch_of(whole).loss(slice(0, 16))[0] < batch_of(start).loss(slice(0, 16))[0]


def after_three_steps(method: Config, folder: Path) -> bytes:
    recipe = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema(), rounding=method)
    return b"".join(weight.numpy().tobytes() for weight in fit(recipe, folder).state_dict().values())


def test_every_method_and_every_parameter_counts(tmp_path: Path) -> None:
    folders = (tmp_path / str(number) for number in count())
    made = {method.__name__: after_three_steps(method(), next(folders)) for method in methods_of(precisions)}
    assert all(made[one] != made[other] for one, other in combinations(made, 2))
    for method in ROUNDING:
        base = method(**BINDING.get(method, {}))
        at_base = after_three_steps(base, next(folders))
        for name in method.model_fields.keys() - {"name"}:
            values = [[method(**{name: value})] for value in LISTS[name]] if name in LISTS else neighbours(base, name)
            for tries in values:
                assert any(after_three_steps(other, next(folders)) != at_base for other in tries), f"{base}: {name}"


class OfOneMatrix(Block):
    """A block of which all but a matrix is left out."""

    def forward(self, x_BTD: Tensor, *rest: object) -> tuple[Tensor, None, None]:
        return self.attention.query(x_BTD), None, None


@EVERY
def test_compiled_blocks_share_a_graph_and_have_near_gradients(method: type[Config]) -> None:
    """Noise is of what is rounded, whose last bits compiled code may have otherwise: then it is other noise."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = held(method())
    for block in model.blocks:
        block.__class__ = OfOneMatrix
    plain = gradients(model)
    model._run = torch.compile(Block.__call__, backend="aot_eager", fullgraph=True)
    compiled = gradients(model)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert near(plain, compiled) > NEAR.get(method, 0.99)


@EVERY
def test_recomputed_blocks_have_the_same_gradients(method: type[Config]) -> None:
    model = held(method())
    plain = gradients(model)
    model.recompute = True
    assert all(torch.equal(grad, plain[name]) for name, grad in gradients(model).items())


@pytest.mark.parametrize("method", [Jetfire, BitSplit])
def test_noise_follows_the_seed_the_step_the_layer_and_the_numbers_and_no_order(method: type[Config]) -> None:
    model = held(method())
    at_first = gradients(model)
    assert all(torch.equal(grad, at_first[name]) for name, grad in gradients(model).items())
    for layer in model.held.values():
        layer.begin(1, False)
    later = gradients(model)
    assert not any(torch.equal(later[name], at_first[name]) for name in model.state_dict() if "ffn.up.weight" in name)
    # parts of a batch give what they give alone, in whatever order they come
    parts = []
    for rows in (slice(0, 8), slice(8, 16)):
        model.zero_grad()
        batch_of(model).loss(rows)[0].backward()
        parts.append(model.blocks[0].ffn.up.weight.grad)
    assert torch.equal(parts[0] + parts[1], gradients(model, 320)["blocks.0.ffn.up.weight"])
    counters = {int(layer.counter) for layer in model.held.values()}
    assert len(counters) == len(model.held)


def test_a_matrix_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="rounding.matrices: no 'gates'"):
        held(Jetfire(matrices=["gates"]))
    some = held(Jetfire(matrices=["1.ffn"]))
    assert set(some.held) == {"blocks.1.ffn.gate", "blocks.1.ffn.up", "blocks.1.ffn.down"}

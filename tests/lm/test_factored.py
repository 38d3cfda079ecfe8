"""Matrices that are products and sums of smaller parts from the first step on: SLTrain, Monarch and ReLoRA, by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from lm.averages import Ema, Last
from lm.config import Config, ConfigError
from lm.linears import LoRA, Monarch, ReLoRA, SLTrain
from lm.linears.monarch import blocks_of, monarch, nearest
from lm.optimizers import AdamW, DropMuon, OneBitAdam, ScheduleFree
from lm.schedules import Cosine
from lm.training.average import RunningAverage
from lm.training.fast_forward import FastForward
from lm.training.flops import flops_per_token
from lm.training.lookahead import Lookahead
from lm.training.loop import train
from lm.training.memory import saved_activation_bytes
from lm.training.parallel.exact import Exact
from lm.training.recipe import Recipe
from lm.training.reparametrized import MOMENTS, ReparametrizedLayers, smallest
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.test_linear_methods import put
from tests.lm.test_linears import batch_of, fit, held
from tests.lm.test_training import Recorder


def layer_of(method: Config, *rows: list[float]) -> Any:
    plain = nn.Linear(len(rows[0]), len(rows), bias=False)
    plain.weight = nn.Parameter(torch.tensor(rows))
    return method.build("blocks.0.ffn.up", plain)


def recipe(method: Config, average: Any = None, optimizer: Any = None) -> Recipe:
    return Recipe(optimizer=optimizer or AdamW(), schedule=Cosine(), average=average or Last(), clip=1.0, linear=method)


def test_sltrain_by_hand() -> None:
    layer = layer_of(SLTrain(rank=1, alpha=3.0, density=0.5), [5.0, 6.0], [7.0, 8.0])
    flat = torch.tensor([5.0, 6.0, 7.0, 8.0])
    places = layer.places_K.tolist()
    assert len(places) == 2 and places == sorted(places) and layer.values.tolist() == flat[places].tolist()
    layer.load({"places": torch.tensor([0, 3])})
    put(layer, up=[[1.0], [2.0]], down=[[10.0, 100.0]], values=[0.5, -0.25])
    # 3 (1, 2)^T (10, 100), and the values at the first and the last place
    assert layer.merged().weight.tolist() == [[30.5, 300.0], [60.0, 599.75]]
    assert layer(torch.tensor([1.0, 2.0])).tolist() == [630.5, 1259.5]
    layer(torch.tensor([1.0, 2.0])).sum().backward()
    # dW = ((1, 2), (1, 2)): times down^T 210 a row, up^T times it (3, 6), each times 3; at its places 1 and 2
    assert layer.up.grad.tolist() == [[630.0], [630.0]] and layer.down.grad.tolist() == [[9.0, 18.0]]
    assert layer.values.grad.tolist() == [1.0, 2.0]


def test_sltrain_trains_few_numbers_and_keeps_no_matrix() -> None:
    dense, model = toy_model(seed=1), held(SLTrain)
    count = 0
    for layer in model.held.values():
        rows, columns = layer.out_features, layer.in_features
        count += 8 * (rows + columns) + round(0.03 * rows * columns)
    matrices = sum(weight.numel() for name, weight in dense.named_parameters() if name.split(".")[-2] in (
        "query", "key", "value", "output", "gate", "up", "down"
    ))  # fmt: skip
    assert model.num_trained() == model.num_parameters() == dense.num_parameters() - matrices + count
    assert saved_activation_bytes(model, batch_of(model)) <= saved_activation_bytes(dense, batch_of(dense))
    assert flops_per_token(model, 12) == flops_per_token(dense, 12)


def test_the_places_of_sltrain_follow_from_the_seed_and_the_layer() -> None:
    def places(method: SLTrain) -> dict[str, list[int]]:
        model = toy_model(seed=1)
        model.reparametrize(method)
        return {name: layer.places_K.tolist() for name, layer in model.held.items()}

    one, other = places(SLTrain()), places(SLTrain(seed=1))
    assert one == places(SLTrain()) and all(one[name] != other[name] for name in one)
    assert one["blocks.0.attention.key"] != one["blocks.0.attention.value"]


@given(st.sampled_from([(8, 8, 2), (12, 8, 2), (8, 24, 2), (18, 9, 3), (5, 6, 1)]), st.integers(0, 3))
def test_monarch_is_blocks_and_permutations(sides: tuple[int, int, int], seed: int) -> None:
    """The product of two matrices made by torch.block_diag, between permutations that transpose a square of numbers."""
    rows, columns, blocks = sides
    middle = min(rows, columns)
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(middle, columns // blocks, generator=generator)
    second = torch.randn(rows, middle // blocks, generator=generator)
    left, right = torch.block_diag(*second.chunk(blocks)), torch.block_diag(*first.chunk(blocks))

    def dealt(count: int) -> torch.Tensor:  # number r * blocks + l to l * (size / blocks) + r
        return torch.eye(count)[torch.arange(count).view(-1, blocks).T.flatten()]

    whole = dealt(rows).T @ left @ dealt(middle) @ right
    x = torch.randn(3, 2, columns, generator=generator)
    torch.testing.assert_close(monarch(x, first, second, blocks), x @ whole.T, rtol=1e-4, atol=1e-4)
    again = monarch(torch.eye(columns), *nearest(whole, blocks), blocks).T
    torch.testing.assert_close(again, whole, rtol=1e-3, atol=1e-3)  # it is one already


def test_the_nearest_product_leaves_out_the_smallest_singular_values() -> None:
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    made = monarch(torch.eye(16), *nearest(weight, 2), 2).T
    left_out = torch.zeros(())
    for k in range(2):
        for l in range(2):  # noqa: E741, the paper's letter
            values = torch.linalg.svdvals(weight[l::2, k * 8 : (k + 1) * 8])
            left_out = left_out + values[2:].square().sum()
    assert (made - weight).square().sum().item() == pytest.approx(left_out.item(), rel=1e-4)


def test_monarch_has_and_costs_half_of_a_square_matrix() -> None:
    model, dense = held(Monarch), toy_model(seed=1)
    layer = model.held["blocks.0.attention.query"]
    assert layer.blocks == 4 and layer.first.numel() + layer.second.numel() == 32 * 32 / 2
    own = sum(layer.first.numel() + layer.second.numel() for layer in model.held.values())
    matrices = dense.num_parameters() - (model.num_parameters() - own)
    assert flops_per_token(dense, 12) - flops_per_token(model, 12) == 6 * (matrices - own) > 0


def test_blocks_that_do_not_cut_the_sides_are_fewer() -> None:
    assert [blocks_of(*sides, 4) for sides in ((32, 32), (16, 32), (8, 32), (24, 8), (9, 18), (5, 6), (12, 36))] == [
        4, 4, 2, 2, 3, 1, 2
    ]  # fmt: skip


def test_relora_by_hand() -> None:
    method = ReLoRA(rank=1, alpha=2.0, every=3)
    layer = layer_of(method, [1.0, 0.0], [0.0, 1.0])
    first = layer.down.detach().clone()
    layer.begin(0, False)
    layer.begin(2, False)
    assert torch.equal(layer.down, first) and not layer.up.any() and not layer.weight.requires_grad
    put(layer, up=[[1.0], [3.0]], down=[[10.0, 20.0]])
    layer.begin(3, False)
    # 2 (1, 3)^T (10, 20) was added
    assert layer.weight.tolist() == [[21.0, 40.0], [60.0, 121.0]] and not layer.up.any()
    assert layer.down.abs().max() <= 2**-0.5 and not torch.equal(layer.down, first)
    second = layer.down.detach().clone()
    layer.begin(4, False)
    assert torch.equal(layer.down, second)
    layer.begin(6, False)
    assert not torch.equal(layer.down, second) and layer.merged().weight.tolist() == [[21.0, 40.0], [60.0, 121.0]]


def test_the_rate_comes_back_after_a_restart() -> None:
    method = ReLoRA(every=4, warmup=3)
    assert [method.factor(step, {}) for step in range(10)] == [1, 1, 1, 1, 0.25, 0.5, 0.75, 1, 0.25, 0.5]
    assert [method.clears(step, {}) for step in (0, 3, 4, 5, 8)] == [None, None, 0.99, None, 0.99]
    assert {ReLoRA(every=2, warmup=0).factor(step, {}) for step in range(9)} == {1.0}


def test_the_smallest_moments_are_cleared() -> None:
    moment = torch.tensor([[-4.0, 1.0, 2.0], [-2.0, 3.0, 0.5]])
    assert smallest(moment, 0.5).tolist() == [[False, True, True], [False, False, True]]
    assert not smallest(moment, 0.0).any() and smallest(moment, 1.0).all()


def test_an_entry_keeps_both_of_its_moments_or_neither() -> None:
    """Or the next update would be a mean over next to 0; here the largest means have the smallest squares."""
    model = toy_model(seed=1)
    model.reparametrize(ReLoRA(every=2, cleared=0.75, warmup=0))
    optimizer = Exact(1).distribute(model, AdamW())
    component = ReparametrizedLayers(model, optimizer)
    batch_of(model).loss(slice(0, 4))[0].backward()
    optimizer.step()
    for name, weight in model.named_parameters():
        if name.endswith((".up", ".down")):
            count = torch.arange(1.0, weight.numel() + 1).view_as(weight)
            optimizer.state[weight]["exp_avg"].copy_(-count)
            optimizer.state[weight]["exp_avg_sq"].copy_(1 / count)
    component.begin(2)
    for name, weight in model.named_parameters():
        if name.endswith((".up", ".down")):
            mean, square = (optimizer.state[weight][slot].flatten() for slot in ("exp_avg", "exp_avg_sq"))
            gone = int(0.75 * weight.numel())
            for moment in (mean, square):
                assert not moment[:gone].any() and moment[gone:].all(), name


def test_a_restart_clears_moments_and_means_of_the_factors_alone() -> None:
    model = toy_model(seed=1)
    model.reparametrize(ReLoRA(every=2, cleared=1.0, warmup=1))
    optimizer = Exact(1).distribute(model, AdamW())
    mean = RunningAverage(Ema())
    component = ReparametrizedLayers(model, optimizer, mean)
    component.begin(0)
    batch_of(model).loss(slice(0, 4))[0].backward()
    optimizer.step()
    mean.mean = {name: weight.detach().clone() + 1 for name, weight in model.named_parameters() if weight.requires_grad}
    rates = [group["lr"] for group in optimizer.param_groups]
    component.begin(2)
    assert [group["lr"] for group in optimizer.param_groups] == [rate / 2 for rate in rates]
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            thin, state = name.endswith((".up", ".down")), optimizer.state[weight]
            assert bool(state["exp_avg_sq"].any()) is not thin and state["step"] == 1, name
            assert torch.equal(mean.mean[name], weight) is thin, name


def test_without_a_restart_it_is_lora_beside_trained_embeddings(tmp_path: Path) -> None:
    """And with one it is not: the sum of two products of rank 2 has rank 4."""
    start = toy_model(seed=1).state_dict()
    ranks = []
    for every in (9, 3):
        end = fit(recipe(ReLoRA(rank=2, every=every, warmup=0, cleared=0.0)), tmp_path / str(every)).state_dict()
        assert not torch.equal(end["embedding.weight"], start["embedding.weight"])
        change = end["blocks.0.ffn.up.weight"] - start["blocks.0.ffn.up.weight"]
        ranks.append(int((torch.linalg.svdvals(change) > 1e-6).sum()))
    lora = fit(recipe(LoRA(rank=2)), tmp_path / "lora").state_dict()
    assert ranks == [2, 4] and torch.equal(lora["embedding.weight"], start["embedding.weight"])


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_relora_that_was_stopped_goes_on_with_what_it_merged(after: int, tmp_path: Path) -> None:
    """Before a restart, in its step, and behind it."""
    how = recipe(ReLoRA(every=2, warmup=1, cleared=0.9), Ema())
    whole = fit(how, tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(how, tmp_path / "cut", after)
    resumed = fit(how, tmp_path / "cut").state_dict()
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.state_dict().items())


def test_the_curve_tells_the_jagged_rate(tmp_path: Path) -> None:
    logs = []
    for number, method in enumerate((LoRA(), ReLoRA(every=3, warmup=1))):
        model, log = toy_model(seed=1), Recorder(tmp_path / str(number))
        train(model, recipe(method), 6, lambda step, model=model: batch_of(model), log)
        logs.append([log.points[step]["learning_rate"] for step in range(6)])
    assert [jagged / plain for plain, jagged in zip(*logs, strict=True)] == [1, 1, 1, 0.5, 1, 1]


@pytest.mark.parametrize(("optimizer", "slot"), [(ScheduleFree(), "ahead"), (OneBitAdam(), "server_error")])
def test_an_optimizer_whose_state_is_no_mean_of_gradients_is_refused_before_the_first_step(
    optimizer: Any, slot: str, tmp_path: Path
) -> None:
    """Of a run that would not come to a restart, too. One that freezes squares would never have them again."""
    model, log = toy_model(seed=1), Recorder(tmp_path)
    how = recipe(ReLoRA(every=99), optimizer=optimizer)
    with pytest.raises(ConfigError, match=f"linear: the optimizer keeps {slot} of a weight, which cannot begin anew"):
        train(model, how, 6, lambda step: batch_of(model), log)
    assert log.points == {}


def test_an_optimizer_that_has_other_tensors_than_the_layers_is_refused() -> None:
    """As one that has parts of them, or copies: what begins anew in the layers would be as it was after its next step."""
    model, copy = toy_model(seed=1), toy_model(seed=1)
    for one in (model, copy):
        one.reparametrize(ReLoRA())
    optimizer = Exact(1).distribute(copy, AdamW())
    ReparametrizedLayers(copy, optimizer)
    with pytest.raises(
        ConfigError, match="linear: relora needs whole matrices: set TOKENMILL_PARALLEL to exact or ddp"
    ):
        ReparametrizedLayers(model, optimizer)


def test_an_optimizer_that_leaves_layers_out_of_a_step_clears_them_all_the_same() -> None:
    model = toy_model(seed=1)
    model.reparametrize(ReLoRA(every=2, cleared=1.0))
    optimizer = Exact(1).distribute(model, DropMuon())
    component = ReparametrizedLayers(model, optimizer)
    batch_of(model).loss(slice(0, 4))[0].backward()
    optimizer.step()
    model.requires_grad_(False)  # as the optimizer's `begin` has it of those below its cut
    component.begin(2)
    for name, weight in model.named_parameters():
        if name.endswith((".up", ".down")):
            assert not any(optimizer.state[weight][slot].any() for slot in MOMENTS & optimizer.state[weight].keys()), (
                name
            )


@pytest.mark.parametrize("other", [{"fast_forward": FastForward(every=2)}, {"lookahead": Lookahead(share=0.5)}])
def test_what_goes_on_with_movements_of_before_is_refused(other: dict[str, Any]) -> None:
    given = {"optimizer": AdamW(), "schedule": Cosine(), "average": Last()}
    with pytest.raises(ValidationError, match="linear: relora begins anew, where movements of before mean nothing"):
        Recipe(**given, linear=ReLoRA(), **other)
    assert Recipe(**given, linear=LoRA(), **other).linear == LoRA()


def test_a_part_of_a_matrix_is_refused() -> None:
    layer = layer_of(ReLoRA(), [1.0, 2.0])
    layer.weight.data = torch.empty(0)
    with pytest.raises(
        ConfigError, match="linear: relora needs whole matrices: set TOKENMILL_PARALLEL to exact or ddp"
    ):
        layer.begin(0, False)

"""What each way to hold a matrix does, on numbers worked by hand and by formulas of other sources."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lm.averages import Ema
from lm.config import Config, ConfigError
from lm.linears import DoRA, FrozenLower, LoRA, QLoRA, SaRA
from lm.linears.adapter import scale_of
from lm.linears.base import flops_of
from lm.linears.qlora import LEVELS
from lm.model import Decoder
from lm.optimizers import AdamW, Muon, ScheduleFree
from lm.schedules import Cosine
from lm.training.flops import flops_per_token
from lm.training.loop import train
from lm.training.memory import positions_in, saved_activation_bytes
from lm.training.parallel.exact import Exact
from lm.training.recipe import Recipe
from lm.training.reparametrized import ReparametrizedLayers
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.test_linears import batch_of, fit, held
from tests.lm.test_training import Recorder


def layer_of(method: Config, *rows: list[float], bias: bool = False) -> Any:
    """A layer that is built on a matrix of these rows, and does not train it."""
    plain = nn.Linear(len(rows[0]), len(rows), bias=bias)
    plain.weight = nn.Parameter(torch.tensor(rows), requires_grad=False)
    return method.build("blocks.0.ffn.up", plain)


def put(layer: nn.Module, **values: Any) -> None:
    with torch.no_grad():
        for name, value in values.items():
            layer.get_parameter(name).copy_(torch.tensor(value))


def test_lora_trains_its_thin_matrices_alone_and_costs_what_they_do() -> None:
    dense, model = toy_model(seed=1), held(LoRA)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name.rpartition(".")[2] for name in trained} == {"down", "up"} and len(trained) == 2 * 2 * 7
    # of each of the 2 blocks q, k, v, o and three of the ffn: rank 8 times the two sides
    sides = (32 + 32) + 2 * (16 + 32) + (32 + 32) + 3 * (32 + 48)
    assert model.num_trained() == 2 * 8 * sides
    matrices = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48)
    stays = matrices + model.head_weight.numel()
    assert flops_per_token(model, 12) == flops_per_token(dense, 12) - 2 * stays + 6 * model.num_trained()
    # of a memory that holds a dense model's training state, and no more, LoRA leaves most to activations
    memory = 20 * dense.num_parameters() / 0.6
    assert positions_in(memory, dense, batch_of(dense), 20.0, 4.0) == 0
    more, fewer = (positions_in(memory, model, batch_of(model), 20.0, frozen) for frozen in (0.0, 4.0))
    assert 0 < fewer < more


def test_a_checkpoint_of_lora_holds_what_is_trained_and_no_more(tmp_path: Path) -> None:
    recipe = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema(), linear=LoRA(matrices=["query"]))
    with pytest.raises(Stopped):
        fit(recipe, tmp_path, 4)
    (path,) = tmp_path.glob("step-*.safetensors")
    thin = {f"blocks.{n}.attention.query.{part}" for n in (0, 1) for part in ("down", "up")}
    held = {name for name in load_file(path) if name.startswith(("model.", "average.", "optimizer."))}
    slots = ("model", "average", "optimizer.step", "optimizer.exp_avg", "optimizer.exp_avg_sq")
    assert held == {f"{slot}.{name}" for slot in slots for name in thin}


def test_lora_of_some_matrices_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    method = LoRA(rank=2, matrices=["query", "down"])
    recipe = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema(), linear=method)
    start, end = toy_model(seed=1).state_dict(), fit(recipe, tmp_path).state_dict()
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved == {f"blocks.{n}.{part}.weight" for n in (0, 1) for part in ("attention.query", "ffn.down")}
    for name in moved:
        singular = torch.linalg.svdvals(end[name] - start[name])
        assert singular[1] > 1e-3 * singular[0] and singular[2] < 1e-4 * singular[0]  # rank 2


def test_lora_in_shards_learns_as_lora_at_once(tmp_path: Path) -> None:
    once, shards = (
        fit(
            Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema(), linear=LoRA(), shards=shards),
            tmp_path / str(shards),
        )
        for shards in (1, 2)
    )
    for name, weight in once.state_dict().items():  # fp32 sums in another order
        torch.testing.assert_close(shards.state_dict()[name], weight, rtol=1e-4, atol=1e-6)


def test_a_name_that_means_no_layer_is_one_line() -> None:
    allowed = "allowed: attention, down, ffn, gate, key, output, query, up, value, and rows of them"
    for given, said in (
        ({"matrices": ["query", "querry"]}, f"linear.matrices: no 'querry' .{allowed}"),
        ({"matrices": ["quer"]}, f"linear.matrices: no 'quer' .{allowed}"),
        ({"ranks": {"2.ffn": 4}}, f"linear.ranks: no '2.ffn' .{allowed}"),
    ):
        with pytest.raises(ConfigError, match=said):
            toy_model().reparametrize(LoRA(**given))
    with pytest.raises(ValidationError, match="ffn: 0 is no rank: leave a layer out by `matrices`"):
        LoRA(ranks={"ffn": 0})


def test_lora_by_hand() -> None:
    layer = layer_of(LoRA(rank=1, alpha=3.0), [1.0, 2.0], [3.0, 4.0])
    put(layer, down=[[1.0, -1.0]], up=[[1.0], [2.0]])
    # 3 up down = [[3, -3], [6, -6]]
    assert layer.merged().weight.tolist() == [[4.0, -1.0], [9.0, -2.0]]
    assert layer(torch.tensor([1.0, 1.0])).tolist() == [3.0, 7.0]
    assert flops_of(layer) == 4 * 4 + 6 * 4 and flops_of(nn.Linear(2, 2, bias=False)) == 6 * 4


def test_what_the_thin_product_counts() -> None:
    assert [scale_of(8.0, 4, scaling) for scaling in ("rank", "root_rank")] == [2.0, 4.0]
    layers = [layer_of(LoRA(rank=4, alpha=8.0, scaling=scaling), [1.0, 0.0]) for scaling in ("rank", "root_rank")]
    for layer in layers:
        put(layer, down=[[1.0, 0.0]] * 4, up=[[1.0, 1.0, 1.0, 1.0]])
    assert [layer.merged().weight.tolist() for layer in layers] == [[[9.0, 0.0]], [[17.0, 0.0]]]


def test_a_layer_has_the_rank_of_the_longest_name_that_means_it() -> None:
    for ranks in (
        {"attention": 2, "1.attention.query": 5, "ffn": 3},
        {"1.attention.query": 5, "ffn": 3, "attention": 2},
    ):
        model = toy_model()
        model.reparametrize(LoRA(rank=7, ranks=ranks, matrices=["attention", "1.ffn.up"]))
        found = {name.removeprefix("blocks."): len(layer.down) for name, layer in model.held.items()}
        short = {f"{n}.attention.{part}": 2 for n in (0, 1) for part in ("query", "key", "value", "output")}
        assert found == {**short, "1.attention.query": 5, "1.ffn.up": 3}
    assert model.held["blocks.1.ffn.up"].scale == 16 / 3


@pytest.mark.parametrize("optimizer", [AdamW(), Muon(), ScheduleFree()], ids=lambda method: method.name)
def test_the_matrix_that_begins_as_zeros_learns_at_its_own_rate(optimizer: Any) -> None:
    model = toy_model()
    model.reparametrize(LoRA(up_rate=16.0))
    built = Exact(1).distribute(model, optimizer)
    names = {weight: name for name, weight in model.named_parameters()}
    rates = {names[w].rpartition(".")[2]: g["base_lr"] for g in built.param_groups for w in g["params"]}
    assert rates == {"down": optimizer.lr, "up": 16 * optimizer.lr} and built.param_groups[0]["lr"] == optimizer.lr
    assert sum(len(group["params"]) for group in built.param_groups) == 2 * 14


def test_the_first_update_is_as_large_as_its_rate(tmp_path: Path) -> None:
    """AdamW's first step moves each weight by its rate."""
    model = toy_model(seed=1)
    how = Recipe(optimizer=AdamW(lr=1e-3), schedule=Cosine(), average=Ema(), linear=LoRA(up_rate=4.0), clip=1e9)
    moved = []
    model.merge = lambda: moved.extend(layer.up.abs().max().item() for layer in model.held.values())
    train(model, how, 1, lambda step: batch_of(model), Recorder(tmp_path))
    rate = 1e-3 * how.schedule(0, 1)
    assert rate > 0 and moved == [pytest.approx(4 * rate, rel=1e-3)] * 14


def test_lora_that_begins_as_a_part_of_the_matrix_by_hand() -> None:
    """Of the rows (0, 3) and (1, 0) the largest singular value is 3, from the second input to the first output."""
    rows = [0.0, 3.0], [1.0, 0.0]
    for alpha in (1.0, 4.0):
        layer = layer_of(LoRA(rank=1, alpha=alpha, start="pissa"), *rows)
        half = (3 / alpha) ** 0.5
        assert layer.up.abs().flatten().tolist() == pytest.approx([half, 0.0], abs=1e-6)
        assert layer.down.abs().flatten().tolist() == pytest.approx([0.0, half], abs=1e-6)
        assert layer.weight.flatten().tolist() == pytest.approx([0.0, 0.0, 1.0, 0.0], abs=1e-6)
        assert layer.merged().weight.flatten().tolist() == pytest.approx([0.0, 3.0, 1.0, 0.0], abs=1e-6)
        assert not layer.weight.requires_grad
    # Q = ((0, 1), (1, 0)), R = ((1, 0), (0, 3)), to signs: the first column and row are the product that has the 1
    layer = layer_of(LoRA(rank=1, alpha=2.0, start="olora"), *rows)
    assert layer.up.abs().flatten().tolist() == pytest.approx([0.0, 1.0], abs=1e-6)
    assert layer.down.abs().flatten().tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    assert layer.weight.flatten().tolist() == pytest.approx([0.0, 3.0, -1.0, 0.0], abs=1e-6)
    assert layer.merged().weight.flatten().tolist() == pytest.approx([0.0, 3.0, 1.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("method", [LoRA, DoRA])
@pytest.mark.parametrize("begin", ["pissa", "olora"])
def test_a_part_of_the_matrix_and_its_rest_are_the_matrix(method: type[Config], begin: str) -> None:
    dense, model = toy_model(seed=1), toy_model(seed=1)
    model.reparametrize(method(start=begin, rank=6))
    model.merge()
    for name, weight in dense.state_dict().items():  # fp32, of weights of 0.02
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=1e-4, atol=1e-7)


def test_what_is_left_without_the_largest_singular_values_is_rounded_less() -> None:
    """QPiSSA: the paper's reason to begin so."""
    errors = []
    for begin in ("uniform", "pissa"):
        model = toy_model(seed=1)
        model.reparametrize(QLoRA(start=begin, rank=6))
        model.merge()
        errors.append(
            sum(float((model.state_dict()[n] - w).square().sum()) for n, w in toy_model(seed=1).state_dict().items())
        )
    assert 0 < errors[1] < 0.8 * errors[0]


def test_a_part_of_the_matrix_has_its_rank_at_most() -> None:
    model = toy_model()
    model.reparametrize(LoRA(rank=20, alpha=40.0, start="pissa"))
    key, query = (model.held[f"blocks.0.attention.{name}"] for name in ("key", "query"))  # 16 x 32 and 32 x 32
    assert (len(key.down), key.scale, len(query.down), query.scale) == (16, 40 / 16, 20, 40 / 20)
    assert key.weight.abs().max() < 1e-6 < query.weight.abs().max()


def test_one_of_the_thin_matrices_may_stay() -> None:
    """LoRA-FA: the inputs of the matrices need not be kept, which are all that LoRA keeps for a layer beside its thin product."""
    both, up = held(LoRA), toy_model(seed=1)
    up.reparametrize(LoRA(trained="up"))
    assert {n.rpartition(".")[2] for n, weight in up.named_parameters() if weight.requires_grad} == {"up"}
    assert all(torch.equal(up.get_parameter(n), w) for n, w in both.named_parameters())
    assert saved_activation_bytes(up, batch_of(up)) < 0.85 * saved_activation_bytes(both, batch_of(both))
    down = sum(layer.down.numel() for layer in up.held.values())
    assert up.num_trained() == both.num_trained() - down
    assert flops_per_token(up, 12) == flops_per_token(both, 12) - 2 * down


def test_dora_by_hand() -> None:
    layer = layer_of(DoRA(rank=1, alpha=1.0), [3.0, 4.0], [0.0, 2.0])
    assert layer.magnitude.tolist() == [5.0, 2.0]
    put(layer, magnitude=[10.0, 2.0])
    assert layer.merged().weight.tolist() == [[6.0, 8.0], [0.0, 2.0]]
    put(layer, magnitude=[5.0, 2.0], down=[[1.0, 0.0]], up=[[-3.0], [1.5]])
    # the first row turns to (0, 4) and keeps its length of 5; the second to (1.5, 2) of length 2.5, resized to 2
    assert layer.merged().weight.flatten().tolist() == pytest.approx([0.0, 5.0, 1.2, 1.6])
    assert layer(torch.tensor([1.0, 1.0])).tolist() == pytest.approx([5.0, 2.8])


def test_the_length_in_dora_takes_no_part_in_gradients() -> None:
    """Section 4.3 of the paper: the gradient of V is m / C of that of W', and that of m is dW' V / C."""
    layer = layer_of(DoRA(rank=1, alpha=1.0), [3.0, 4.0])
    put(layer, magnitude=[10.0], down=[[1.0, 0.0]], up=[[-3.0]])
    layer(torch.tensor([1.0, 2.0])).backward()
    assert layer.up.grad.tolist() == [[10 / 4 * 1.0]]  # of V = (0, 4); with the length's gradient it would be this too
    assert layer.down.grad.tolist() == [[10 / 4 * -3.0 * 1.0, 10 / 4 * -3.0 * 2.0]]  # with it the second would be 0
    assert layer.magnitude.grad.tolist() == [8 / 4]


def test_the_levels_of_nf4_are_quantiles_of_a_normal_distribution() -> None:
    """Of each sign as many as it has levels, from 0 to the quantile that leaves 1/2 (1/30 + 1/32) of all above it, over the
    last of them (section 3 of the paper)."""
    offset = 1 - (1 / 30 + 1 / 32) / 2
    above, below = (torch.special.ndtri(torch.linspace(offset, 0.5, n, dtype=torch.float64)[:-1]) for n in (9, 8))
    made = torch.cat((-below, torch.zeros(1, dtype=torch.float64), above.flip(0))) / above.max()
    assert LEVELS["nf4"] == pytest.approx(made.tolist(), abs=1e-6)
    assert [len(set(levels)) for levels in LEVELS.values()] == [16, 16]


def test_qlora_by_hand() -> None:
    row = [2.0, -2.0, 0.0, 0.2, -7.0, 7.0, 1.4]
    nf4, int4 = (layer_of(QLoRA(rank=1, block=4, data_type=kind), row, [0.0] * 7) for kind in ("nf4", "int4"))
    # blocks of 4 and of 3: largest 2 and 7; 0.1 is nearest to 0.0796, and 0.2 to 0.2461 (0.1609 and 0.2461 meet at 0.2035)
    made = [2.0, -2.0, 0.0, 2 * 0.07958029955625534, -7.0, 7.0, 7 * 0.16093020141124725]
    assert nf4.merged().weight[0].tolist() == pytest.approx(made) and not nf4.merged().weight[1].any()
    # seven steps either way: of 2/7, 0.2 is nearer to one than to none
    assert int4.merged().weight[0].tolist() == pytest.approx([2.0, -2.0, 0.0, 2 / 7, -7.0, 7.0, 1.0])
    assert nf4.codes.dtype == torch.uint8 and nf4.codes.shape == (2, 4) and nf4.scales_ON.tolist() == [[2, 7], [0, 0]]
    put(nf4, down=[[1.0] + [0.0] * 6], up=[[1.0], [0.0]])
    assert nf4.merged().weight[0, 0].item() == 2.0 + 16 and nf4(torch.eye(7)[0]).tolist() == [18.0, 0.0]


def test_qlora_keeps_no_matrix_but_its_codes() -> None:
    """Of 16 bits a weight and more that a dense matrix has: 4, and 32 a block; and a pass keeps none for its backward."""
    shape = {"width": 64, "ffn_width": 128}
    dense, lora, qlora = toy_model(**shape), held(LoRA, **shape), held(QLoRA, **shape)
    matrices = sum(layer.weight.numel() for layer in lora.held.values())
    buffers = sum(buffer.nbytes for layer in qlora.held.values() for buffer in layer.buffers())
    assert buffers == matrices * (4 / 8 + 4 / 64) + 14 * 16 * 4  # and the levels
    assert qlora.num_parameters() == lora.num_parameters() - matrices
    assert saved_activation_bytes(qlora, batch_of(qlora)) == saved_activation_bytes(lora, batch_of(lora))
    memory = 40e6
    room = [positions_in(memory, model, batch_of(model), 20.0, 4.0) for model in (dense, lora, qlora)]
    assert room[0] < room[1] < room[2]


def test_sara_by_hand() -> None:
    layer = layer_of(SaRA(share=0.5, penalty=0.25, repick=3), [1.0, -0.1], [0.2, 3.0])
    assert layer.places_K.tolist() == [1, 2] and layer.values.tolist() == pytest.approx([-0.1, 0.2])
    layer.begin(0, False)
    assert layer.penalty() is None
    layer.begin(1, True)
    # singular values of ((0, -0.1), (0.2, 0)): 0.1 and 0.2; their sum grows with the magnitude of either
    (penalty := layer.penalty()).backward()
    assert penalty.item() == pytest.approx(0.25 * 0.3) and layer.values.grad.tolist() == pytest.approx([-0.25, 0.25])
    for step in (2, 3, 4):
        layer.begin(step, False)
        put(layer, values=[-0.5 if step == 2 else 7.0, 0.1])
        # at step 3 the first is above 0.2, the largest magnitude of those picked first, and stays at -0.5
        first = layer.values[0].item() if step == 2 else -0.5
        assert layer.merged().weight.flatten().tolist() == pytest.approx([1.0, first, 0.1, 3.0])
    layer.begin(5, True)
    layer.values.grad = None
    # what has settled is trained no more, and counts for nothing
    (penalty := layer.penalty()).backward()
    assert penalty.item() == pytest.approx(0.25 * 0.1) and layer.values.grad.tolist() == pytest.approx([0.0, 0.25])
    layer.values.grad = None
    layer(torch.tensor([1.0, 2.0])).sum().backward()
    assert layer.values.grad.tolist() == [0.0, 1.0]


def test_of_equal_magnitudes_the_first_are_picked_and_one_at_least() -> None:
    assert layer_of(SaRA(share=0.5), [0.0] * 5, [1.0, -1.0, 0.0, 0.0, 0.0]).places_K.tolist() == [0, 1, 2, 3, 4]
    assert layer_of(SaRA(share=0.01), [3.0, 2.0, 4.0]).places_K.tolist() == [1]


def test_sara_trains_the_smallest_weights_alone(tmp_path: Path) -> None:
    recipe = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema(), linear=SaRA(share=0.2))
    start, end = toy_model(seed=1).state_dict(), fit(recipe, tmp_path).state_dict()
    for name, weight in start.items():
        moved = (end[name] != weight).flatten()
        smallest = weight.abs().flatten().sort().indices[: int(0.2 * weight.numel())] if moved.any() else torch.empty(0)
        assert set(moved.nonzero().flatten().tolist()) <= set(smallest.long().tolist()), name
    assert sum(not torch.equal(end[name], weight) for name, weight in start.items()) == 14


@pytest.mark.parametrize("after", [2, 4])
def test_sara_that_was_stopped_goes_on_with_what_has_settled(after: int, tmp_path: Path) -> None:
    """Before the step in which weights are picked anew, and behind it."""
    recipe = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema(), linear=SaRA(repick=3, penalty=0.1))
    whole = fit(recipe, tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(recipe, tmp_path / "cut", after)
    (path,) = (tmp_path / "cut").glob("step-*.safetensors")
    settled = {name: t for name, t in load_file(path).items() if name.startswith("components.linear.")}
    assert len(settled) == 14 and any((~t.isnan()).any() for t in settled.values()) == (after == 4)
    resumed = fit(recipe, tmp_path / "cut").state_dict()
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.state_dict().items())


def test_matrices_take_turns_in_the_nuclear_norm() -> None:
    model = held(SaRA).train()
    for step in range(15):
        ReparametrizedLayers(model).begin(step)
        assert [number for number, layer in enumerate(model.held.values()) if layer.penalty() is not None] == [
            step % 14
        ]
        assert model.auxiliary_loss().item() > 0


def test_zero3_that_has_cut_what_sara_picks_from_is_refused() -> None:
    layer = layer_of(SaRA(repick=1), [1.0, 2.0])
    layer.values.data = torch.empty(0)
    with pytest.raises(ConfigError, match="linear: zero3 cuts what sara picks from: set TOKENMILL_PARALLEL to fsdp"):
        layer.begin(0, False)


class Products(TorchDispatchMode):
    """How many products of matrices were computed."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm)
        return func(*args, **(kwargs or {}))


def products_of_a_backward(model: Decoder) -> int:
    loss, _ = batch_of(model).loss(slice(0, 4))
    with Products() as seen:
        loss.backward()
    return seen.count


def test_no_backward_goes_below_the_layers_that_are_trained() -> None:
    shape = {"layers": 4, "tied": False}
    dense, upper = toy_model(**shape), held(FrozenLower, **shape)
    # of 7 matrices in each of two layers two products, for the gradients of its input and of its weight
    assert products_of_a_backward(dense) - products_of_a_backward(upper) == 2 * 7 * 2
    two = toy_model(**{**shape, "layers": 2})
    assert (
        saved_activation_bytes(upper, batch_of(upper))
        <= saved_activation_bytes(two, batch_of(two))
        < 0.6 * saved_activation_bytes(dense, batch_of(dense))
    )
    still = {name for name, weight in upper.named_parameters() if not weight.requires_grad}
    assert still == {n for n, _ in dense.named_parameters() if n.startswith(("embedding.", "blocks.0.", "blocks.1."))}
    matrices = sum(layer.weight.numel() for layer in upper.held.values())
    assert flops_per_token(dense, 12) - flops_per_token(upper, 12) == 4 * matrices


def test_a_share_of_layers_that_is_none_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"linear\.share: 0\.4 of 2 layers is none: raise it"):
        toy_model().reparametrize(FrozenLower(share=0.4))
    model = toy_model(layers=3)
    model.reparametrize(FrozenLower(share=0.7))
    assert {name.split(".")[1] for name in model.held} == {"0", "1"}

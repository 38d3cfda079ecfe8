"""SST and Cuttlefish by hand: singular values and vectors, and the switch to factors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from lm.averages import Ema
from lm.block import Block
from lm.config import ConfigError
from lm.linears import SST, Cuttlefish, Monarch, Pixelfly
from lm.linears.cuttlefish import CuttlefishLinear, has_plateaued, rank_of, stable_rank
from lm.linears.sst import SSTLinear, drawn, likelihoods
from lm.model import Decoder
from lm.optimizers import AdamW, Lamb, Muon, Soap
from lm.schedules import Cosine
from lm.training import precision
from lm.training.average import RunningAverage
from lm.training.flops import flops_per_token
from lm.training.loop import train
from lm.training.parallel.exact import Exact
from lm.training.recipe import Recipe
from lm.training.reparametrized import ReparametrizedLayers
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.test_factored import layer_of, recipe
from tests.lm.test_linear_methods import put
from tests.lm.test_linears import SOON, batch_of, disturbed, fit, held
from tests.lm.test_training import Recorder


def random_layer(method: Any, rows: int, columns: int, seed: int = 0) -> Any:
    plain = nn.Linear(columns, rows, bias=False)
    plain.weight = nn.Parameter(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)))
    return method.build("blocks.0.ffn.up", plain)


def gradients(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """(dx, dW) of the sum of squares of what it gives, by the dense layer beside it; its own are left in it."""
    given, plain = x.clone().requires_grad_(), layer.merged()
    layer(given).square().sum().backward()
    beside = x.clone().requires_grad_()
    plain(beside).square().sum().backward()
    torch.testing.assert_close(given.grad, beside.grad, rtol=1e-4, atol=1e-4)
    return given.grad, plain.weight.grad


def test_likelihoods_are_half_even_and_half_by_value() -> None:
    assert likelihoods(torch.tensor([6.0, 2.0, 0.0, 0.0])).tolist() == [0.5, 0.25, 0.125, 0.125]
    assert likelihoods(torch.zeros(4)).tolist() == [0.125] * 4  # in proportion, which is all that counts


def test_vectors_are_drawn_by_their_likelihoods_and_none_twice() -> None:
    generator, values = torch.Generator().manual_seed(0), torch.tensor([6.0, 2.0, 0.0, 0.0])
    first = [drawn(values, 1, generator).item() for _ in range(8000)]
    assert [first.count(one) / 8000 for one in range(4)] == pytest.approx([0.5, 0.25, 0.125, 0.125], abs=0.025)
    for count in (2, 4):
        found = drawn(values, count, generator).tolist()
        assert found == sorted(set(found)) and len(found) == count


@pytest.mark.parametrize("sides", [(6, 6), (7, 4), (4, 7)])
def test_gradients_of_sst_leave_the_singular_values_out(sides: tuple[int, int]) -> None:
    layer = random_layer(SST(rank=3), *sides)
    x = torch.randn(5, sides[1], generator=torch.Generator().manual_seed(1))
    dweight = gradients(layer, x)[1]
    left, right = layer.left_OM[:, layer.drawn_R], layer.right_MI[layer.drawn_R]
    close = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(layer.up.grad, dweight @ right.T, **close)
    torch.testing.assert_close(layer.down.grad, left.T @ dweight, **close)
    diagonal = torch.stack([layer.left_OM[:, m] @ dweight @ layer.right_MI[m] for m in range(min(sides))])
    torch.testing.assert_close(layer.values.grad, diagonal, **close)
    assert len(layer.values) == min(sides) and layer.up.shape == (sides[0], 3) and layer.down.shape == (3, sides[1])


def test_gradients_of_sst_are_the_same_where_autocast_is_on_in_the_backward() -> None:
    layer = random_layer(SST(rank=3), 16, 12)
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found = []
    for within in (True, False):
        layer.zero_grad()
        x.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            loss = layer(x).float().square().sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=within):
            loss.backward()
        found.append([x.grad, *(weight.grad.clone() for weight in layer.parameters())])
    assert all(map(torch.equal, *found))


def test_a_gradient_of_a_value_is_of_the_vectors_that_are_trained() -> None:
    """Those that have moved since they were drawn, not what they were."""
    layer = layer_of(SST(rank=1), [2.0, 0.0], [0.0, 1.0])
    layer.load({"left_OM": torch.eye(2), "right_MI": torch.eye(2), "drawn_R": torch.tensor([1])})
    put(layer, values=[2.0, 1.0], up=[[0.6], [0.8]], down=[[1.0, 0.0]])
    # 2 e1 e1^T + (0.6, 0.8)^T e1^T
    assert layer.merged().weight.tolist() == [pytest.approx([2.6, 0.0]), pytest.approx([0.8, 0.0])]
    layer(torch.tensor([1.0, 10.0])).sum().backward()
    # dW = ((1, 10), (1, 10)): of e1 and e1 1; of (0.6, 0.8) and e1 1.4
    assert layer.values.grad.tolist() == pytest.approx([1.0, 1.4])
    assert layer.up.grad.flatten().tolist() == pytest.approx([1.0, 1.0])
    assert layer.down.grad.flatten().tolist() == pytest.approx([1.4, 14.0])


def test_an_update_is_brought_back() -> None:
    layer = random_layer(SST(rank=2), 4, 3)
    put(layer, values=[3.0, -1.0, 0.5])
    with torch.no_grad():
        layer.up.mul_(5.0)
        layer.down.mul_(torch.tensor([[0.1], [7.0]]))
    SST().after(0, {"one": layer})
    assert layer.values.tolist() == [3.0, 0.0, 0.5]
    torch.testing.assert_close(layer.up.norm(dim=0), torch.ones(2))
    torch.testing.assert_close(layer.down.norm(dim=1), torch.ones(2))


def test_an_iteration_trains_others_and_a_round_makes_vectors_orthogonal() -> None:
    method = SST(rank=2, every=3, iterations=2)
    layer = random_layer(method, 6, 5)
    first = layer.drawn_R.tolist()
    with torch.no_grad():
        layer.up.add_(0.3)
    layer.settle()
    bent = layer.dense().detach().clone()
    layer.begin(2, False)
    assert layer.drawn_R.tolist() == first and torch.equal(layer.dense(), bent)
    layer.begin(3, False)
    # what was trained stays as it has become, to the bit, and is no longer orthogonal
    assert layer.drawn_R.tolist() != first and torch.equal(layer.dense(), bent)
    assert (layer.left_OM.T @ layer.left_OM - torch.eye(5)).abs().max() > 0.1
    torch.testing.assert_close(layer.up, nn.Parameter(layer.left_OM[:, layer.drawn_R]))
    layer.begin(6, False)
    torch.testing.assert_close(layer.dense(), nn.Parameter(bent).detach(), rtol=1e-4, atol=1e-4)
    for vectors in (layer.left_OM.T, layer.right_MI):
        torch.testing.assert_close(vectors @ vectors.T, torch.eye(5), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.values.detach(), torch.linalg.svdvals(bent), rtol=1e-4, atol=1e-4)


def test_steps_of_an_iteration() -> None:
    method = SST(every=4, iterations=2, warmup=3)
    assert [step for step in range(17) if method.begins(step)] == [4, 8, 12, 16]
    assert [step for step in range(17) if method.decomposes(step)] == [8, 16]
    assert [method.factor(step, {}) for step in range(9)] == [1, 1, 1, 1, 0.25, 0.5, 0.75, 1, 0.25]
    assert [method.clears(step, {}) for step in (0, 3, 4, 5, 8)] == [None, None, 1.0, None, 1.0]


def test_what_sst_trains() -> None:
    """Of a square matrix of 32, 8 vectors of either side and 32 values; with more asked for than there are, all."""
    model = held(SST)
    query = model.held["blocks.0.attention.query"]
    assert sum(weight.numel() for weight in query.parameters()) == 8 * (32 + 32) + 32
    assert flops_per_token(model, 12) == flops_per_token(toy_model(seed=1), 12)
    assert isinstance(query, SSTLinear) and len(random_layer(SST(rank=9), 4, 6).drawn_R) == 4


def test_vectors_are_drawn_anew_for_each_layer_step_and_seed() -> None:
    def of(method: SST) -> list[list[int]]:
        model = toy_model(seed=1)
        model.reparametrize(method)
        layers = list(model.held.values())
        return [layer.draw(step).tolist() for layer in layers[:1] + layers[3:4] for step in (0, 20)]

    found = of(SST())
    assert found == of(SST()) and found != of(SST(seed=1)) and len(set(map(str, found))) == 4


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_sst_that_was_stopped_goes_on_with_the_vectors_that_it_had(after: int, tmp_path: Path) -> None:
    """Before an iteration, in its step, and behind a round."""
    how = recipe(SST(every=2, iterations=2, warmup=1), Ema())
    whole = fit(how, tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(how, tmp_path / "cut", after)
    resumed = fit(how, tmp_path / "cut").state_dict()
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.state_dict().items())


def test_the_stable_rank_by_hand() -> None:
    assert stable_rank(torch.diag(torch.tensor([2.0, 2.0, 1.0]))).item() == pytest.approx(9 / 4)
    assert stable_rank(torch.ones(3, 5)).item() == pytest.approx(1.0) and stable_rank(torch.zeros(2, 2)).item() == 0.0


def test_ranks_that_follow() -> None:
    assert rank_of(5.0, 64 / 16, 64, 0.0) == 20 and rank_of(5.01, 4.0, 64, 0.0) == 21
    assert rank_of(17.0, 4.0, 64, 0.0) == 64 and rank_of(0.0, 4.0, 64, 0.0) == 1
    assert rank_of(1.0, 4.0, 64, 0.25) == 16 and rank_of(5.0, 4.0, 64, 0.25) == 20


def test_measures_that_are_level() -> None:
    assert has_plateaued(torch.tensor([5.0, 5.1, 5.0]), 0.11) and not has_plateaued(torch.tensor([5.0, 5.1, 5.0]), 0.09)
    assert has_plateaued(torch.tensor([5.0, 5.0, 5.3]), 0.16)  # the mean, not the greatest
    assert not has_plateaued(torch.tensor([torch.nan, 5.0, 5.0]), 9.0)


def low_rank_layer(method: Cuttlefish, first: float = 0.0) -> Any:
    """A matrix of 8 x 8 of stable rank 2: two equal singular values. first: its stable rank as it began, where it is another."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q for _ in range(2))
    layer = layer_of(method, *(left[:, :2] @ right[:2] * 3).tolist())
    layer.first = torch.tensor(first) if first else layer.first
    return layer


@pytest.mark.parametrize(
    ("method", "first", "rank"),
    [
        (Cuttlefish(scaled=False, least=0.0, gain=1.0), 0.0, 2),
        (Cuttlefish(least=0.0, gain=1.0), 6.0, 3),  # 2 of 6 is 2.67 of 8
        (Cuttlefish(least=0.5, gain=1.0), 6.0, 4),
        (Cuttlefish(least=0.5, gain=1.1), 6.0, 0),  # 4 x 16 numbers are no fewer than 64
        (Cuttlefish(least=0.0, gain=1.3), 6.0, 3),
        (Cuttlefish(least=0.0, gain=1.4), 6.0, 0),
    ],
)
def test_a_matrix_becomes_factors_in_its_own_place(method: Cuttlefish, first: float, rank: int) -> None:
    layer = low_rank_layer(method, first)
    before = layer.weight.detach().clone()
    layer.begin(5, False)
    assert layer.rank == 0
    layer.switch = 6
    layer.begin(6, False)
    assert layer.rank == rank and layer.weight.shape == (8, 8)
    # of stable rank 2 and rank 2, so that nothing is lost
    torch.testing.assert_close(layer.dense().detach(), before, rtol=1e-4, atol=1e-4)
    assert layer.flops() == 6 * (16 * rank if rank else 64)
    layer.begin(7, False)
    torch.testing.assert_close(layer.dense().detach(), before, rtol=1e-4, atol=1e-4)
    if rank:
        up, down = layer.factors()
        assert up.shape == (8, rank) and down.shape == (rank, 8)
        torch.testing.assert_close(up.norm(dim=0), down.norm(dim=1), rtol=1e-4, atol=1e-4)  # roots of values in both
        assert not layer.weight.detach().flatten()[16 * rank :].any()


def test_gradients_of_factors_are_those_of_two_layers() -> None:
    layer = low_rank_layer(Cuttlefish(scaled=False, least=0.0, gain=1.0))
    layer.switch = 0
    layer.begin(0, False)
    up, down = (part.detach().clone().requires_grad_() for part in layer.factors())
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    (x @ down.T @ up.T).square().sum().backward()
    gradients(layer, x)
    flat = layer.weight.grad.flatten()
    torch.testing.assert_close(flat[:16], up.grad.flatten(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(flat[16:32], down.grad.flatten(), rtol=1e-4, atol=1e-4)
    assert not flat[32:].any()


def test_all_switch_when_the_last_is_level_and_what_was_level_stays_so() -> None:
    method = Cuttlefish(every=2, window=1, tolerance=0.5)
    layers: dict[str, Any] = {name: low_rank_layer(method) for name in ("one", "other")}
    ranks = {
        "one": [2, 2, 5, 5, 5],  # level, then not
        "other": [2, 5, 5, 5, 5],
    }
    switches = []
    for step in range(10):
        for name, layer in layers.items():
            measure = float(ranks[name][step // 2])
            put(layer, weight=torch.diag(torch.tensor([1.0] * int(measure) + [0.0] * (8 - int(measure)))).tolist())
        method.after(step, layers)
        switches.append((layers["one"].is_level, layers["other"].is_level, layers["one"].switch))
    # measures come behind steps 1, 3, 5, ...
    assert switches[3] == (True, False, -1) and switches[4] == switches[3] and switches[5] == (True, True, 6)
    assert {layer.switch for layer in layers.values()} == {6} and switches[-1] == switches[5]
    assert [method.clears(step, layers) for step in (5, 6, 7)] == [None, 1.0, None]
    shorter = method.model_copy(update={"warmup": 1})
    assert [shorter.factor(step, layers) for step in (4, 5, 6, 7, 8)] == [1.0, 1.0, 0.5, 1.0, 1.0]


def test_the_switch_clears_moments_and_begins_the_mean_anew() -> None:
    model = toy_model(seed=1)
    model.reparametrize(Cuttlefish(**SOON[Cuttlefish]))
    optimizer, mean = Exact(1).distribute(model, AdamW()), RunningAverage(Ema())
    component = ReparametrizedLayers(model, optimizer, mean)
    batch_of(model).loss(slice(0, 4))[0].backward()
    optimizer.step()
    mean.mean = {name: weight.detach().clone() + 1 for name, weight in model.named_parameters()}
    for layer in model.held.values():
        layer.switch = 2
    component.begin(2)
    for name, weight in model.named_parameters():
        inner = name.rpartition(".")[0] in model.held
        assert bool(optimizer.state[weight]["exp_avg_sq"].any()) is not inner, name
        assert torch.equal(mean.mean[name], weight) is inner, name
    assert all(layer.rank for layer in model.held.values())


def test_a_run_ends_at_the_ranks_of_its_switch(tmp_path: Path) -> None:
    """Each has as many singular values as its factors had columns."""
    ranks: list[int] = []

    class Watched(Cuttlefish):
        def artifact(self, layers: dict[str, Any]) -> None:
            ranks.extend(layer.rank for layer in layers.values())

    end = fit(recipe(Watched(**SOON[Cuttlefish]), Ema()), tmp_path).state_dict()
    found = [
        int((torch.linalg.svdvals(weight) > 1e-5).sum())
        for name, weight in end.items()
        if name.split(".")[-2] in ("query", "key", "value", "output", "gate", "up", "down")
    ]
    assert found == ranks and 0 < max(ranks) < 32


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_cuttlefish_that_was_stopped_goes_on_with_what_it_measured(after: int, tmp_path: Path) -> None:
    """Before the switch, between its decision and its step, and behind it."""
    how = recipe(Cuttlefish(**{**SOON[Cuttlefish], "warmup": 2}), Ema())
    whole = fit(how, tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(how, tmp_path / "cut", after)
    resumed = fit(how, tmp_path / "cut").state_dict()
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.state_dict().items())


def graphs_of(model: Decoder) -> int:
    """How many graphs the blocks of a model are compiled into, in a pass."""
    torch._dynamo.reset()
    counter = CompileCounter()
    model._run = torch.compile(Block.__call__, backend=counter, dynamic=False)
    model.train()(torch.zeros(1, 4, dtype=torch.int64))
    return counter.frame_count


def test_blocks_of_cuttlefish_would_be_a_graph_each_and_are_not_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks of their own, behind the switch: torch compiles each, up to its limit. Whether a run compiles does not hang on when
    its matrices turn."""
    model = toy_model(seed=1, layers=4)
    model.reparametrize(Cuttlefish())
    assert graphs_of(model) == 1
    for name, layer in model.held.items():
        layer.rank = 1 + int(name.split(".")[1])
    assert graphs_of(model) == 4
    parts: dict[str, Any] = {"optimizer": AdamW(), "schedule": Cosine(), "average": Ema()}
    with pytest.raises(
        ValidationError, match="linear: cuttlefish gives each matrix a size of its own.*: set compile: off"
    ):
        Recipe(**parts, linear=Cuttlefish(), compile="on")
    monkeypatch.setattr(precision, "COMPILE_FLOPS", 0.0)
    monkeypatch.setattr(precision.shutil, "which", lambda name: name)
    assert [precision.compiles(recipe(each).compiling, torch.device("cpu"), 1.0) for each in (Cuttlefish(), SST())] == [
        False,
        True,
    ]
    log = Recorder(tmp_path)
    train(model := toy_model(seed=1), recipe(Cuttlefish()), 1, lambda step: batch_of(model), log)
    assert log.execution["compiled"] == "no"


@pytest.mark.parametrize("method", [Cuttlefish(), Monarch(), Pixelfly()], ids=lambda method: method.name)
@pytest.mark.parametrize("optimizer", [Muon(), Lamb(), Soap(), AdamW(cautious=True)], ids=lambda one: one.name)
def test_an_optimizer_that_would_take_factors_for_a_matrix_is_refused(optimizer: Any, method: Any) -> None:
    """And stacks of blocks that have nothing to do with each other."""
    model = toy_model(seed=1)
    model.reparametrize(method)
    with pytest.raises(
        ConfigError, match=f"linear: {method.name} puts other numbers in a matrix's place, which the optimizer"
    ):
        ReparametrizedLayers(model, Exact(1).distribute(model, optimizer))
    ReparametrizedLayers(model, Exact(1).distribute(model, AdamW()))


@pytest.mark.parametrize("method", [SST(), Cuttlefish()])
def test_a_part_of_a_matrix_is_refused(method: Any) -> None:
    layer = layer_of(method, [1.0, 2.0])
    weight = layer.weight if isinstance(layer, CuttlefishLinear) else layer.up
    weight.data = torch.empty(0)
    with pytest.raises(
        ConfigError, match=f"linear: {method.name} needs whole matrices: set TOKENMILL_PARALLEL to exact"
    ):
        layer.begin(0, False)


def test_compiled_factors_give_the_same_gradients() -> None:
    """Behind the switch, where a layer's rank is part of its graph."""
    model = disturbed(held(Cuttlefish))
    for layer in model.held.values():
        layer.switch = 0
        layer._method = Cuttlefish(**SOON[Cuttlefish])
        layer.begin(0, False)
    layer = model.held["blocks.0.ffn.up"]
    assert layer.rank
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    grads = []
    for run in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        run(x).square().sum().backward()
        grads.append(layer.weight.grad.clone())
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)

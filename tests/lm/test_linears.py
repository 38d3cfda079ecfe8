"""What every way to hold a matrix must be, whichever there are: a new file in lm/linears is held to it by itself."""

from collections.abc import Hashable
from functools import cache, partialmethod
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lm import linears
from lm.averages import Ema, Last
from lm.block import Block
from lm.config import Config, ConfigError, methods_of
from lm.linears import (
    SST,
    AdaLoRA,
    Centroids,
    Cuttlefish,
    Dense,
    FewBits,
    FrozenLower,
    GraNet,
    Masked,
    Monarch,
    OneBit,
    Pixelfly,
    QLoRA,
    ReLoRA,
    SaRA,
    SLTrain,
)
from lm.linears.base import ReparametrizedLinear, SelectiveLinearMethod, roles_of
from lm.linears.dora import DoRALinear
from lm.model import Decoder
from lm.optimizers import AdamW, Muon
from lm.schedules import Cosine
from lm.training.batch import Batch, Metrics, backward
from lm.training.data.conversations import token_logps
from lm.training.loop import train
from lm.training.recipe import Recipe
from lm.training.reparametrized import ReparametrizedLayers
from tasks.core.log import Stopped
from tasks.core.yaml import read_yaml
from tests.lm.models import plain_and_compiled, toy_model
from tests.lm.test_training import Recorder
from tests.neighbours import neighbours
from tests.project import ROOT

EVERY = pytest.mark.parametrize("method", methods_of(linears), ids=lambda method: method.__name__)
# fp32 with sums in another order, of values of the order of 1
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
# Those that begin as a model of rounded weights, and how far of the weights' size: a step of 16 levels over the range of some
# dozen normal weights; a sign has sqrt(1 - 2 / pi) = 0.603 of many, and the best 8 values 0.186 (Max 1960)
ROUNDS: dict[type[Config], float] = {
    QLoRA: 0.15, FewBits: 0.15, OneBit: 0.66, Centroids: 0.22,
    # Those that begin with a part of the numbers: half, 3%, and of blocks of 4 x 8 the largest singular value
    Masked: 0.75, GraNet: 0.8, SLTrain: 0.999, Monarch: 0.9, Pixelfly: 0.9,
    # That of singular values and vectors in fp32
    SST: 1e-5,
}  # fmt: skip
# Those whose gradients are not the differences of what rounds; tests/lm/test_few_bits.py, test_clustered.py,
# test_granet.py and test_spectral.py have them
STRAIGHT = {FewBits, OneBit, Centroids, GraNet, SST}
# Settings in which a parameter binds, the other values of parameters that are lists, and shapes that tell them apart
BINDING: dict[str, dict[str, Any]] = {
    "repick": {"repick": 1}, "block": {"block": 8}, "cut_from": {"cut_until": 3}, "cut_until": {"cut_until": 2},
    "cut_every": {"cut_until": 3}, "beta1": {"cut_until": 2}, "beta2": {"cut_until": 2},
    "alpha": {"rank": 4}, "seed": {"rank": 4}, "group": {"group": 8},
}  # fmt: skip
# Those that begin as a dense model, whose first change comes late unless they are set so
SOON: dict[type[Config], dict[str, Any]] = {
    Cuttlefish: {"every": 1, "window": 1, "tolerance": 9.0, "scaled": False, "least": 0.5, "gain": 1.0},
}  # fmt: skip
OF_METHOD: dict[type[Config], dict[str, dict[str, Any]]] = {
    Masked: {
        "seed": {}, "kept": {"pattern": "n_m"}, "group": {"pattern": "n_m", "kept": 1}, "gradient": {"pattern": "n_m"},
        "pull": {"pattern": "n_m"}, "decay_from": {"pattern": "n_m", "gradient": "decaying", "decay_until": 3},
        "decay_until": {"pattern": "n_m", "gradient": "decaying", "decay_until": 2}, "dense_from": {"dense_from": 1},
    },
    ReLoRA: {
        "every": {"every": 2}, "cleared": {"every": 2, "rank": 8}, "warmup": {"every": 2, "warmup": 1}, "seed": {"rank": 4},
    },
    SLTrain: {"seed": {}},
    SST: {"rank": {}, "every": {"every": 2}, "iterations": {"every": 1, "iterations": 2}, "warmup": {"every": 1, "warmup": 1}},
    Cuttlefish: {
        **dict.fromkeys(("matrices", "every", "window", "least", "gain", "warmup"), SOON[Cuttlefish]),
        "tolerance": {**SOON[Cuttlefish], "tolerance": 0.3}, "scaled": {**SOON[Cuttlefish], "least": 0.1},
    },
    Pixelfly: {"density": {"block": 2}, "low_rank": {"block": 2}},
    GraNet: {
        "density": {"every": 1, "prune_until": 2}, "first_density": {}, "seed": {},
        "prune_from": {"every": 1, "prune_until": 3, "prune_from": 1}, "prune_until": {"every": 1, "prune_until": 3},
        "every": {"every": 1}, "regrow": {"every": 1}, "regrow_until": {"every": 1, "prune_until": 1, "regrow_until": 2},
    },
}  # fmt: skip
DIVISORS = {Masked: {"group": [2, 8]}}
LISTS: dict[str, list[Any]] = {
    "matrices": [["up"], ["attention"], ["0.ffn"]],
    "ranks": [{"query": 3}, {"0.attention": 1}],
}
SHAPES: dict[type[Config], dict[str, Any]] = {
    FrozenLower: {"layers": 4},
    AdaLoRA: {"layers": 2},
}  # which compare layers
IDS = torch.randint(0, 261, (4, 13), generator=torch.Generator().manual_seed(0))


def held(method: type[Config], **shape: Any) -> Decoder:
    model = toy_model(seed=1, **shape)
    model.reparametrize(method())
    return model


def disturbed(model: Decoder) -> Decoder:
    """What is trained is away from where it begins."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


def batch_of(model: Decoder) -> Batch:
    def loss(rows: slice) -> tuple[Tensor, Metrics]:
        everywhere = torch.arange((rows.stop - rows.start) * 12)
        return -token_logps(model, IDS[rows], everywhere).sum() / 48, {}

    return Batch(4, 12, 48, loss)


@EVERY
def test_a_model_begins_as_what_it_was_and_what_it_became_can_be_merged(method: type[Config]) -> None:
    dense, model, start = toy_model(seed=1), held(method), held(method)
    start.merge()
    for name, weight in dense.state_dict().items():
        if method in ROUNDS:
            assert (start.state_dict()[name] - weight).norm() < ROUNDS[method] * weight.norm(), name
        else:
            assert torch.equal(start.state_dict()[name], weight), name
    with torch.no_grad():
        if method in (Monarch, Pixelfly):  # products of parts are one of their sum to rounding
            torch.testing.assert_close(model(IDS), start(IDS), **CLOSE)
        else:
            assert torch.equal(model(IDS), start(IDS))
        changed = disturbed(model)(IDS)
        assert not torch.allclose(changed, start(IDS), **CLOSE)
        model.merge()
        torch.testing.assert_close(model(IDS), changed, **CLOSE)
    assert {n: w.shape for n, w in model.state_dict().items()} == {n: w.shape for n, w in dense.state_dict().items()}
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(isinstance(module, ReparametrizedLinear) for module in model.modules())


@pytest.mark.parametrize(
    "method", [m for m in methods_of(linears) if m not in STRAIGHT], ids=lambda method: method.__name__
)
def test_gradients_are_the_differences(method: type[Config]) -> None:
    """By torch's gradcheck, in fp64. What a method holds constant in its backward is held here, too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        plain, names = nn.Linear(6, 5), ["blocks.0.ffn.up.weight", "blocks.0.ffn.up.bias"]
        for name in method().frozen_parameters(names):
            plain.get_parameter(name.rpartition(".")[2]).requires_grad_(False)
        layer = method().build("blocks.0.ffn.up", plain)
        with torch.no_grad():
            for weight in layer.parameters():
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) * 0.3)
        if isinstance(layer, DoRALinear):
            length_O = layer.length()
            layer.length = lambda: length_O
        trained = {name: weight for name, weight in layer.named_parameters() if weight.requires_grad}
        x = torch.linspace(-1, 1, 2 * 3 * 6).view(2, 3, 6).requires_grad_()

        def made(x: Tensor, *weights: Tensor) -> Tensor:
            return functional_call(layer, dict(zip(trained, weights, strict=True)), (x,))

        assert trained and torch.autograd.gradcheck(made, (x, *trained.values()))
    finally:
        torch.set_default_dtype(before)


@EVERY
def test_what_stays_is_not_trained_and_all_else_is(method: type[Config]) -> None:
    start, end = toy_model(seed=1), whole_run(method).state_dict()
    staying, roles = method().frozen_parameters(list(start.state_dict())), roles_of(start)
    for name, weight in start.state_dict().items():
        # a matrix that stays has something beside it, unless its whole layer stays
        still = name in staying and (roles[name] != "matrix" or method is FrozenLower)
        assert torch.equal(end[name], weight) == still, name


@EVERY
def test_the_first_values_follow_from_the_method_alone(method: type[Config]) -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(held(method).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@EVERY
def test_every_number_has_a_role_and_a_gradient_if_it_is_trained(method: type[Config]) -> None:
    model = disturbed(held(method, tied=False, qkv_bias=True))
    assert roles_of(model).keys() == dict(model.named_parameters()).keys()
    loss, _ = backward(batch_of(model), 48)
    for name, weight in model.named_parameters():
        assert (weight.grad is not None and bool(weight.grad.abs().max())) == weight.requires_grad, name
    assert model.num_trained() == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert loss > 0


@EVERY
def test_products_in_bf16_give_the_same_gradients_to_its_rounding(method: type[Config]) -> None:
    model, grads = disturbed(held(method)), []
    layer = model.blocks[1].ffn.up
    made: list[torch.dtype] = []
    layer.register_forward_hook(lambda module, inputs, result: made.append(result.dtype))
    for low in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            backward(batch_of(model), 48)
        grads.append({name: weight.grad.flatten() for name, weight in model.named_parameters() if weight.requires_grad})
    assert set(made) == {torch.float32, torch.bfloat16}
    for name, grad in grads[0].items():
        assert torch.nn.functional.cosine_similarity(grads[1][name], grad, dim=0) > 0.99, name
        assert grads[1][name].dtype == torch.float32


@EVERY
def test_compiled_blocks_share_a_graph_and_have_the_same_gradients(method: type[Config]) -> None:
    """Blocks of one held matrix: what dynamo traces is the method's own code. Where the embedding is not trained, the input of
    the first block needs no gradient, and it has a graph of its own."""
    model = disturbed(held(method))
    for block in model.blocks:
        block.__class__ = OfOneMatrix
    assert plain_and_compiled(model, lambda: model.hidden(IDS[:, :-1]).square().sum().backward()) == (
        1 if model.embedding.weight.requires_grad else 2
    )


class OfOneMatrix(Block):
    """A block of which all but a matrix is left out."""

    def forward(self, x_BTD: Tensor, *rest: object) -> tuple[Tensor, None, None]:
        return self.attention.query(x_BTD), None, None


def fit(recipe: Recipe, scratch: Path | None, after: int | None = None) -> Decoder:
    model = toy_model(seed=1)
    train(model, recipe, 6, lambda step: batch_of(model), Recorder(scratch, after))
    return model


def recipe_of(method: type[Config], optimizer: Config | None = None, **more: Any) -> Recipe:
    return Recipe(optimizer=optimizer or AdamW(), schedule=Cosine(), average=Ema(), clip=1.0, linear=method(), **more)


@cache
def whole_run(method: type[Config]) -> Decoder:
    """What a run of it makes, which nobody changes: several tests ask of it."""
    return fit(recipe_of(method), None)


# Of those that Muon trains: a matrix, what is none beside two factors, weights that move by themselves, moments that are cleared
WITH_MUON = (Dense, SLTrain, OneBit, ReLoRA, SST)


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [*((method, AdamW()) for method in methods_of(linears)), *((method, Muon()) for method in WITH_MUON)],
    ids=lambda one: one.name if isinstance(one, Config) else one.__name__,
)
def test_a_run_that_was_stopped_ends_in_the_same_bytes_and_dense(
    method: type[Config], optimizer: Config, tmp_path: Path
) -> None:
    recipe, start = recipe_of(method, optimizer), toy_model(seed=1)
    whole = whole_run(method) if optimizer == AdamW() else fit(recipe, tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(recipe, tmp_path / "cut", 4)
    resumed = fit(recipe, tmp_path / "cut").state_dict()
    assert resumed.keys() == start.state_dict().keys()
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.state_dict().items())
    with torch.no_grad():
        assert batch_of(whole).loss(slice(0, 4))[0] < batch_of(start).loss(slice(0, 4))[0]


def weights_after(method: Config, folder: Path, **shape: Any) -> Hashable:
    """What three steps make of a toy, and whether an adapter is left of them."""
    model = toy_model(seed=1, **{"width": 16, "ffn_width": 24, "layers": 1, **shape})
    recipe = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema(), linear=method)
    train(model, recipe, 3, lambda step: batch_of(model), Recorder(folder))
    return b"".join(weight.numpy().tobytes() for weight in model.state_dict().values()), model.artifact is None


@EVERY
def test_every_parameter_counts(method: type[Config], tmp_path: Path) -> None:
    shape, folders, bases = SHAPES.get(method, {}), count(), dict[str, Hashable]()
    for name in method.model_fields.keys() - {"name"}:
        base = method(**OF_METHOD.get(method, BINDING).get(name, {}))
        if name in DIVISORS.get(method, {}):
            lists = [[base.model_copy(update={name: value})] for value in DIVISORS[method][name]]
        else:
            lists = (
                [[base.model_copy(update={name: value})] for value in LISTS[name]]
                if name in LISTS
                else neighbours(base, name)
            )
        if (settings := base.model_dump_json()) not in bases:  # most parameters ask of the same
            bases[settings] = weights_after(base, tmp_path / str(next(folders)), **shape)
        made = bases[settings]
        for tries in lists:
            assert any(weights_after(other, tmp_path / str(next(folders)), **shape) != made for other in tries), name


# Settings in which each method that changes weights itself does so within six steps
MOVING = [
    OneBit(), GraNet(every=1, prune_until=2), AdaLoRA(cut_until=3), ReLoRA(every=2), Masked(dense_from=3), SST(every=2),
    Cuttlefish(**SOON[Cuttlefish]),
]  # fmt: skip


@pytest.mark.parametrize(
    "method", [*MOVING, *(m() for m in methods_of(linears) if m not in map(type, MOVING)), Masked()]
)
def test_a_method_says_whether_it_changes_weights_between_steps(
    method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an optimizer that moves what has no gradient, too, so that there is something to bring back."""
    changed = []

    def watched(self: ReparametrizedLayers, *given: Any, call: Any) -> None:
        before = [weight.detach().clone() for weight in model.parameters()]
        call(self, *given)
        changed.append(not all(map(torch.equal, before, model.parameters())))

    for name in ("begin", "after"):
        monkeypatch.setattr(
            ReparametrizedLayers, name, partialmethod(watched, call=getattr(ReparametrizedLayers, name))
        )
    model = toy_model(seed=1)
    # of whole tensors, where layers have matrices
    optimizer = AdamW() if method.packs() else Muon()
    recipe = Recipe(optimizer=optimizer, schedule=Cosine(), average=Last(), linear=method)
    train(model, recipe, 6, lambda step: batch_of(model), Recorder(tmp_path))
    assert len(changed) == 12 and any(changed) == method.rewrites_weights() == (method in MOVING)


def test_what_comes_at_a_step_comes_in_the_runs_of_the_default_pipeline() -> None:
    given = read_yaml(ROOT / "presets" / "laptop.yaml")
    steps = [given["curriculum"]["tokens"] // given["curriculum"]["tokens_per_step"]]
    steps += [given[stage]["steps"] for stage in ("sft", "rl", "distill")]
    again = ReLoRA().every + ReLoRA().warmup
    lasts = [
        again,
        SST().every * SST().iterations,
        AdaLoRA().cut_until,
        SaRA().repick,
        GraNet().regrow_until,
        Masked().decay_until,
    ]
    assert max(lasts) < min(steps)


@pytest.mark.parametrize("method", [m for m in methods_of(linears) if "matrices" in m.model_fields])
def test_what_matrices_are_meant_is_said_in_one_way(method: Any) -> None:
    assert issubclass(method, SelectiveLinearMethod)
    every, some = (toy_model(seed=1) for _ in range(2))
    every.reparametrize(method())
    some.reparametrize(method(matrices=["query", "1.ffn"]))
    wanted = {"0.attention.query", "1.attention.query", "1.ffn.gate", "1.ffn.up", "1.ffn.down"}
    assert set(some.held) == {f"blocks.{name}" for name in wanted} and len(every.held) == 14
    with pytest.raises(ConfigError, match=r"linear\.matrices: no 'quer' \(allowed: attention, down,"):
        toy_model().reparametrize(method(matrices=["query", "quer"]))


def test_methods_differ(tmp_path: Path) -> None:
    made = {
        method: weights_after(method(**SOON.get(method, {})), tmp_path / method.__name__, layers=2)
        for method in methods_of(linears)
    }
    assert len(set(made.values())) == len(made)


@EVERY
def test_shards_train_as_one_batch(method: type[Config]) -> None:
    one, two = whole_run(method), fit(recipe_of(method, shards=2), None)
    for name, weight in one.state_dict().items():
        # AdamW divides by the gradient's size, so rounding of a tiny gradient may turn a whole step
        assert torch.nn.functional.cosine_similarity(two.state_dict()[name].flatten(), weight.flatten(), dim=0) > 0.999

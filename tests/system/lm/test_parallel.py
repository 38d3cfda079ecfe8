"""Ranks of every kind against one process: the same curve, and a checkpoint of one kind resumed under the next.

Two gloo ranks run all of it, since starting ranks is what costs time; each check below reads what they left.
"""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from lm.averages import Ema, Last
from lm.config import ConfigError
from lm.linears import (
    SST,
    AdaLoRA,
    Centroids,
    Cuttlefish,
    DoRA,
    FrozenLower,
    GraNet,
    LoRA,
    Masked,
    Monarch,
    OneBit,
    Pixelfly,
    QLoRA,
    ReLoRA,
    SaRA,
    SLTrain,
    VeRA,
)
from lm.model import Decoder
from lm.optimizers import (
    AdaMod,
    AdamW,
    DropMuon,
    Lamb,
    Lars,
    Lion,
    Muon,
    NorMuon,
    OneBitAdam,
    ScheduleFree,
    Soap,
    SoapMuon,
)
from lm.settings import KINDS as EVERY_KIND
from lm.training.fast_forward import FastForward
from lm.training.lookahead import Lookahead
from lm.training.loop import train
from lm.training.parallel import make_parallel
from lm.training.parallel.tree import Tree, sum_over_ranks_
from lm.training.recipe import Recipe
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.ranks import join
from tests.lm.test_training import Recorder, batches, recipe

pytestmark = pytest.mark.usefixtures("on_cpu")
STEPS, STOP_AFTER = 9, 4
# On a CPU DeepSpeed compiles its exchange between processes when it is first used.
COMPILER = shutil.which("g++") is not None
KINDS = [kind for kind in EVERY_KIND if COMPILER or not kind.startswith("zero")]


@dataclass(frozen=True)
class Case:
    """A run on two ranks: its recipe, and the kind that makes its first steps, which is followed by another."""

    how: Recipe
    first: str
    then: str
    offload: bool = False

    @property
    def name(self) -> str:
        offload = "-offload" if self.offload else ""
        start = getattr(self.how.linear, "start", "uniform")
        linear = self.how.linear.name + ("" if start == "uniform" else f"_{start}")
        linear += "_n_m" * (getattr(self.how.linear, "pattern", "") == "n_m")
        linear += "_freed" * bool(getattr(self.how.linear, "dense_from", 0))
        forward = "-forward" if self.how.fast_forward.every else "-ahead" if self.how.lookahead.share else ""
        return (
            "-".join((self.how.optimizer.name, linear, self.how.average.name, self.first, self.then))
            + offload
            + forward
        )


def how(optimizer=AdamW, average=Last, **more) -> Recipe:
    return recipe(optimizer=optimizer, average=average, shards=2, **more)


EVERY = how(AdamW)
# A rate of its own, weights picked anew in the third step, and layers that are not trained
HELD = [
    LoRA(up_rate=4.0), LoRA(start="pissa", trained="up", keep=True), DoRA(), QLoRA(block=16), SaRA(repick=3, penalty=0.01),
    FrozenLower(), VeRA(rank=8), Masked(), Masked(pattern="n_m", pull=0.0), SLTrain(), Monarch(), OneBit(), Pixelfly(block=8),
]  # fmt: skip
# What needs whole matrices, and changes something in the third or fourth step
WHOLE = [
    AdaLoRA(cut_until=4), Centroids(), Masked(dense_from=3), ReLoRA(every=3, warmup=1),
    GraNet(every=2, prune_until=6, regrow_until=8), SST(every=2, warmup=1),
    Cuttlefish(every=1, window=1, tolerance=9.0, scaled=False, gain=1.0),
]  # fmt: skip
FORWARD = how(linear=LoRA(), fast_forward=FastForward(every=2, most=4))
AHEAD = how(lookahead=Lookahead(share=0.5, memory=0.5))
CASES = [
    *(Case(EVERY, first, then) for first, then in pairwise((*KINDS, KINDS[0]))),
    *(Case(EVERY, kind, kind, offload=True) for kind in ("fsdp", "zero2") if kind in KINDS),
    *(
        Case(how(AdamW, Ema), first, then)
        for first, then in pairwise(k for k in ("fsdp", "zero2", "ddp", "fsdp") if k in KINDS)
    ),
    *(Case(how(method), "exact", "fsdp") for method in (Muon, Lamb, Lars, Lion)),
    *(Case(how(method), "exact", "exact") for method in (Muon, NorMuon, Soap, SoapMuon)),
    *(Case(how(NorMuon), first, then) for first, then in (("ddp", "fsdp"), ("fsdp", "exact"))),
    *(Case(how(ScheduleFree), first, then) for first, then in (("fsdp", "ddp"), ("exact", "fsdp"))),
    Case(how(Muon, skip_sigmas=6.0), "ddp", "fsdp"),
    *(Case(how(AdaMod), first, then) for first, then in (("fsdp", "zero2"), ("zero2", "ddp")) if "zero2" in KINDS),
    *(Case(how(linear=held), *kinds) for held in HELD for kinds in (("exact", "exact"), ("fsdp", "ddp"))),
    *(Case(FORWARD, *kinds) for kinds in (("exact", "exact"), ("fsdp", "ddp"), ("ddp", "fsdp"))),
    *(Case(AHEAD, *kinds) for kinds in (("exact", "exact"), ("fsdp", "ddp"), ("ddp", "fsdp"))),
    *(Case(how(linear=held), *kinds) for held in WHOLE for kinds in (("exact", "exact"), ("ddp", "exact"))),
    *(
        Case(how(linear=held), "zero3", "zero3")
        for held in HELD
        if "zero3" in KINDS and held.name != "sara" and not held.rewrites_weights()
    ),
]
BF16 = [Case(how(precision="bf16"), kind, kind) for kind in KINDS]


def train_two(case: Case, scratch: Path | None) -> tuple[Decoder, dict]:
    """The case's run, which stops with a checkpoint and goes on under the other kind: (model, points of the curve)."""
    points: dict = {}
    for kind, stop_after in ((case.first, STOP_AFTER), (case.then, None)):
        environment(kind, case.offload)
        model, log = toy_model(seed=1), Recorder(scratch or Path(), stop_after)
        log.scratch = scratch
        with suppress(Stopped):
            train(model, case.how, STEPS, batches(model), log)
        points |= log.points
    return model, points


def environment(kind: str, offload: bool) -> None:
    os.environ.update(TOKENMILL_PARALLEL=kind, TOKENMILL_OFFLOAD=str(int(offload)))


def train_cases(rank: int, world: int, folder: str) -> None:
    """Each case: some steps, a stop with a checkpoint, and the rest from it under the other kind."""
    join(rank, world, folder)
    for case in CASES:
        model, points = train_two(case, None if rank else Path(folder) / case.name)
        torch.save((model.state_dict(), points, type(model).__name__), Path(folder) / f"{case.name}-{rank}.pt")
    for case in BF16:
        _, points = train_two(case, None)
        torch.save(points[0]["loss"], Path(folder) / f"bf16-{case.first}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(train_cases, (2, str(folder)), nprocs=2)
    return folder


@pytest.mark.skipif(not COMPILER, reason="DeepSpeed needs g++ on a CPU")
def test_deepspeed_is_among_the_kinds() -> None:
    assert {"zero1", "zero2", "zero3"} < set(KINDS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_ranks_train_as_one_process(case: Case, trained: Path, tmp_path: Path) -> None:
    alone, log = toy_model(seed=1), Recorder(tmp_path)
    torch.set_num_threads(1)
    train(alone, case.how, STEPS, batches(alone), log)
    weights, points, kind = torch.load(trained / f"{case.name}-0.pt")
    assert kind == "Decoder", "the model is not a plain one again"
    assert points.keys() == log.points.keys() == set(range(STEPS))
    exact = case.first == case.then == "exact"
    for step, point in log.points.items():
        assert points[step].keys() == point.keys()
        for name, value in point.items():
            # sums of four rows in another order, over nine updates; measured up to 4e-6 of a weight, most with Muon
            assert points[step][name] == (value if exact else pytest.approx(value, rel=1e-5)), (step, name)
    for name, weight in alone.state_dict().items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=0 if exact else 2e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ranks_end_with_the_same_weights(case: Case, trained: Path) -> None:
    (weights, points, _), (others, points_there, _) = (torch.load(trained / f"{case.name}-{r}.pt") for r in (0, 1))
    assert all(torch.equal(others[name], weight) for name, weight in weights.items()) and points == points_there


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_to_the_precision(kind: str, trained: Path, tmp_path: Path) -> None:
    first = {}
    for precision in ("fp32", "bf16"):
        log = Recorder(tmp_path / precision)
        train(model := toy_model(seed=1), how(precision=precision), 1, batches(model), log)
        first[precision] = log.points[0]["loss"]
    loss = torch.load(trained / f"bf16-{kind}-0.pt")
    # products of bf16 are the same, their fp32 sums in another order; those of fp32 would be farther off
    assert abs(loss - first["bf16"]) < abs(first["fp32"] - first["bf16"]) / 10


def train_one_bit(rank: int, world: int, folder: str) -> None:
    """1-bit Adam, whole and stopped: past its freezing, when the ranks' own errors matter."""
    join(rank, world, folder)
    environment("ddp", False)
    method = recipe(optimizer=lambda: OneBitAdam(lr=0.01, freeze_after=2))
    for name, stops in (("whole", (None,)), ("cut", (STOP_AFTER, None))):
        for stop_after in stops:
            model, log = toy_model(seed=1), Recorder(Path(folder) / name, stop_after)
            if rank:
                log.scratch = None
            try:
                train(model, method, STEPS, batches(model), log)
            except Stopped:
                shutil.copytree(Path(folder) / name, Path(folder) / "kept") if rank == 0 else None
        torch.save((model.state_dict(), log.points), Path(folder) / f"{name}-{rank}.pt")
    dist.destroy_process_group()


def test_errors_of_each_rank_come_back_with_it(tmp_path: Path) -> None:
    mp.spawn(train_one_bit, (2, str(tmp_path)), nprocs=2)
    found = {key: torch.load(tmp_path / f"{key}.pt") for key in ("whole-0", "whole-1", "cut-0", "cut-1")}
    for name, weight in found["whole-0"][0].items():
        assert all(torch.equal(weights[name], weight) for weights, _ in found.values()), name
    saved = load_file(tmp_path / "kept" / f"step-{STOP_AFTER:08}.safetensors")
    errors = next(value for key, value in saved.items() if "worker_error" in key)
    assert len(errors) == 2 and not torch.equal(*errors), "the ranks' errors do not differ, so the test shows nothing"
    # one process goes on from it: what was a rank's own is left out
    model, log = toy_model(seed=1), Recorder(tmp_path / "kept")
    train(model, recipe(optimizer=lambda: OneBitAdam(lr=0.01, freeze_after=2)), STEPS, batches(model), log)
    assert set(log.points) == set(range(STOP_AFTER, STEPS))


def recursive_sum(leaves: list[Tensor]) -> Tensor:
    half = len(leaves) // 2
    return leaves[0] if half == 0 else recursive_sum(leaves[:half]) + recursive_sum(leaves[half:])


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(0, 6), st.integers(1, 9), st.integers(0, 99))
def test_a_tree_is_a_recursive_sum(height: int, size: int, seed: int) -> None:
    leaves = list(torch.randn(2**height, size, generator=torch.Generator().manual_seed(seed)) * 1e3)
    tree = Tree()
    for leaf in leaves:
        tree.add(leaf.clone())
    assert torch.equal(tree.sum(), recursive_sum(leaves))


def test_leaves_must_be_a_power_of_two() -> None:
    tree = Tree()
    for _ in range(3):
        tree.add(torch.ones(2))
    with pytest.raises(ValueError, match="3 leaves are no power of two"):
        tree.sum()


LEAVES = torch.randn(8, 40, generator=torch.Generator().manual_seed(3)) * 1e3


def sum_leaves(rank: int, world: int, folder: str) -> None:
    join(rank, world, folder, f"store-{world}")
    tree, each = Tree(), len(LEAVES) // world
    for leaf in LEAVES[rank * each : (rank + 1) * each]:
        tree.add(leaf.clone())
    total = tree.sum()
    sum_over_ranks_(total)
    assert torch.equal(total, recursive_sum(list(LEAVES)))
    if world == 4:  # the check can fail: the order of a plain sum gives other bits
        plain = LEAVES[rank * each : (rank + 1) * each].sum(0)
        dist.all_reduce(plain)
        assert not torch.equal(plain, total)
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_sum_in_the_order_of_the_tree(world: int, tmp_path: Path) -> None:
    mp.spawn(sum_leaves, (world, str(tmp_path)), nprocs=world)


def test_shards_change_bits_and_little_else(tmp_path: Path) -> None:
    found = {}
    for shards in (1, 2, 4):
        model = toy_model(seed=1)
        train(model, recipe(shards=shards), STEPS, batches(model), Recorder(tmp_path / str(shards)))
        found[shards] = model.state_dict()
    for shards in (2, 4):
        for name, weight in found[1].items():
            torch.testing.assert_close(found[shards][name], weight, rtol=0, atol=2e-5)  # as above


def test_a_weight_without_a_gradient_stays_without(tmp_path: Path) -> None:
    model = toy_model(seed=1)
    model.blocks[0].requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.blocks[0].named_parameters()}
    train(model, recipe(shards=2), 3, batches(model), Recorder(tmp_path))
    assert all(torch.equal(weight, before[name]) for name, weight in model.blocks[0].named_parameters())


def test_what_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    model = toy_model(seed=1)
    with pytest.raises(ConfigError, match="a step of 4 sequences cannot be cut into 8 equal shards"):
        train(model, recipe(shards=8), STEPS, batches(model), Recorder(tmp_path))
    with pytest.raises(ValueError, match="must be a power of two"):
        recipe(shards=3)


def pretend_ranks(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    """As if there were several, for what is refused before any is asked."""
    for module in ("lm.training.parallel", "lm.training.parallel.exact", "lm.training.parallel.zero"):
        monkeypatch.setattr(f"{module}.world_size", lambda: world)


@pytest.mark.parametrize(
    ("kind", "offload", "how", "world", "reason"),
    [
        ("exact", "0", recipe(), 2, "shards: 1 cannot be divided among 2 ranks: set it to 2 or more"),
        ("exact", "0", recipe(shards=4), 3, "TOKENMILL_RANKS: 3 is no power of two"),
        ("exact", "1", recipe(shards=4), 2, "TOKENMILL_OFFLOAD: exact keeps all weights on the device"),
        ("exact", "0", recipe(OneBitAdam, shards=2), 2, "onebit_adam gives other bits for other ranks"),
        ("ddp", "0", recipe(DropMuon), 2, "drop_muon chooses anew in each step which weights have gradients"),
        ("zero2", "0", recipe(Muon), 2, "muon needs whole tensors, which TOKENMILL_PARALLEL=zero2 does not allow"),
        ("zero1", "0", recipe(ScheduleFree), 2, "schedule_free changes the weights after the last update"),
        ("zero1", "0", recipe(skip_sigmas=6.0), 2, "skip_sigmas: ZeRO knows a gradient's norm only after the update"),
        ("zero3", "0", recipe(AdamW, Ema), 2, "average: ema needs the weights, which zero3 has cut"),
        *(
            (kind, "0", recipe(linear=held), 2, f"linear: {held.name} changes weights between steps, which ZeRO keeps")
            for held in (OneBit(), *WHOLE)
            if held.rewrites_weights()
            for kind in ("zero1", "zero2", "zero3")
        ),
        ("fspd", "0", recipe(), 2, r"TOKENMILL_PARALLEL: must be one of exact, ddp, fsdp, zero1"),
    ],
)
def test_what_a_kind_cannot_do_is_refused(
    kind: str, offload: str, how: Recipe, world: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENMILL_PARALLEL", kind)
    monkeypatch.setenv("TOKENMILL_OFFLOAD", offload)
    pretend_ranks(monkeypatch, world)
    model = toy_model()
    model.reparametrize(how.linear)
    with pytest.raises(ConfigError, match=reason):
        make_parallel(how).distribute(model, how.optimizer)

"""Rounded products and moments in FP8 on two ranks, stopped and gone on with: the bits of one process where ranks are `exact`, and
its losses to the noise of rounding elsewhere."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lm.config import ConfigError
from lm.optimizers.states import States
from lm.precisions import BitSplit, Jetfire
from lm.settings import KINDS as EVERY_KIND
from lm.training.loop import train
from lm.training.recipe import Recipe
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.ranks import join
from tests.lm.test_training import Recorder, batches, recipe

pytestmark = pytest.mark.usefixtures("on_cpu")
STEPS, STOP_AFTER = 6, 3
KINDS = [kind for kind in EVERY_KIND if shutil.which("g++") is not None or not kind.startswith("zero")]
WHOLE = ("exact", "ddp")
HOWS: dict[str, Any] = {"int4": {"rounding": BitSplit()}, "jetfire": {"rounding": Jetfire()}}
FP8 = {"optimizer_states": States(format="fp8")}
CASES = [(kind, name) for kind in KINDS for name in HOWS]


def how_of(kind: str, name: str) -> Recipe:
    return recipe(shards=2, **HOWS[name], **(FP8 if name == "jetfire" and kind in WHOLE else {}))


def train_cases(rank: int, world: int, folder: str) -> None:
    """Each case: some steps, a stop with a checkpoint, and the rest from it; and moments that a kind refuses."""
    join(rank, world, folder)
    refused = {}
    for kind, name in CASES:
        os.environ.update(TOKENMILL_PARALLEL=kind, TOKENMILL_OFFLOAD="0")
        points: dict = {}
        for stop_after in (STOP_AFTER, None):
            scratch = Path(folder) / f"{kind}-{name}"
            model, log = toy_model(seed=1), Recorder(scratch, stop_after)
            log.scratch = None if rank else scratch
            with suppress(Stopped):
                train(model, how_of(kind, name), STEPS, batches(model), log)
            points |= log.points
        torch.save((model.state_dict(), points), Path(folder) / f"{kind}-{name}-{rank}.pt")
        if kind not in WHOLE:
            model, log = toy_model(seed=1), Recorder(Path(folder) / "none")
            log.scratch = None
            try:
                train(model, recipe(shards=2, **FP8), 1, batches(model), log)
            except ConfigError as error:
                refused[kind] = str(error)
    torch.save(refused, Path(folder) / f"refused-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(on_cpu: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(train_cases, (2, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_two_ranks_train_as_one_process(kind: str, name: str, trained: Path, tmp_path: Path) -> None:
    alone, log = toy_model(seed=1), Recorder(tmp_path)
    torch.set_num_threads(1)
    train(alone, how_of(kind, name), STEPS, batches(alone), log)
    (weights, points), (others, _) = (torch.load(trained / f"{kind}-{name}-{rank}.pt") for rank in range(2))
    assert all(torch.equal(weight, others[place]) for place, weight in weights.items())
    for step, point in log.points.items():
        # other noise, from numbers of other last bits
        wanted = point["loss"] if kind == "exact" else pytest.approx(point["loss"], rel=0.01)
        assert points[step]["loss"] == wanted, step
    if kind == "exact":
        assert all(torch.equal(weight, weights[place]) for place, weight in alone.state_dict().items())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WHOLE])
def test_what_cuts_weights_refuses_groups_of_moments(kind: str, trained: Path) -> None:
    for rank in range(2):
        said = torch.load(trained / f"refused-{rank}.pt")[kind]
        assert said.startswith("optimizer: adamw keeps its moments in groups") and kind in said

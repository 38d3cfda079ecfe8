"""Growth on two ranks: the bits of one process, where layers come in, wait, stay or are shared."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lm.averages import Ema
from lm.training.growing import Growing
from lm.training.loop import train
from lm.training.recipe import Recipe
from tasks.pretrain.growths import Apollo, Staged, VCycle
from tests.lm.models import toy_model
from tests.lm.ranks import join
from tests.lm.test_training import Recorder, batches, recipe

STEPS = 8
METHODS: dict[str, Any] = {
    "masked": Staged(ramp=0.25, place="between"),
    "alone": Staged(new_layers="random", alone=0.125),
    "apollo": Apollo(seed=1),
    "v_cycle": VCycle(initial=0.25, until=0.6),
}


def made(method: Any, folder: Path) -> dict[str, Any]:
    """The weights of a run on whatever ranks there are."""
    model = toy_model(seed=1, layers=4)
    how: Recipe = recipe(average=Ema, shards=2)
    train(model, how, STEPS, batches(model), Recorder(folder), components=[Growing(method)])
    return model.state_dict()


def on_ranks(rank: int, world: int, folder: str) -> None:
    join(rank, world, folder)
    for name, method in METHODS.items():
        torch.save(made(method, Path(folder) / f"{name}-{rank}"), Path(folder) / f"{name}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(on_ranks, (2, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_grow_as_one_process(name: str, trained: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    alone = made(METHODS[name], tmp_path)
    for rank in (0, 1):
        weights = torch.load(trained / f"{name}-{rank}.pt")
        assert all(torch.equal(weights[key], weight) for key, weight in alone.items())

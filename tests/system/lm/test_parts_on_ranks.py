"""A model of experts, a recurrent layer and one that tokens go past on two ranks of every kind: the curve and the weights of one process, and, stopped
and gone on with, those of one that was not."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lm.model import Decoder
from lm.settings import KINDS as EVERY_KIND
from lm.training.loop import train
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.ranks import join
from tests.lm.test_training import Recorder, batches, recipe

pytestmark = pytest.mark.usefixtures("on_cpu")
STEPS, STOP_AFTER = 6, 3
KINDS = [kind for kind in EVERY_KIND if shutil.which("g++") is not None or not kind.startswith("zero")]
HOW = recipe(shards=2)


def model_of() -> Decoder:
    """Experts of which a rank's few tokens leave some out, and behind them experts that choose among the tokens that go through."""
    experts = {"name": "experts", "experts": 6, "active": 1, "normalised": False, "balance": 0.1}
    choosing = {"name": "experts", "router": "expert_choice", "experts": 4, "active": 2}
    past = {"feed_forward": choosing, "depths": {"share": 0.5}}
    return toy_model(seed=1, layers=3, feed_forward=experts, pattern=[{"mixer": {"name": "minimal_rnn"}}, {}, past])


def train_cases(rank: int, world: int, folder: str) -> None:
    """Each kind: some steps, a stop with a checkpoint, and the rest from it."""
    join(rank, world, folder)
    for kind in KINDS:
        os.environ.update(TOKENMILL_PARALLEL=kind, TOKENMILL_OFFLOAD="0")
        points: dict = {}
        for stop_after in (STOP_AFTER, None):
            scratch = Path(folder) / kind
            model, log = model_of(), Recorder(scratch, stop_after)
            log.scratch = None if rank else scratch
            with suppress(Stopped):
                train(model, HOW, STEPS, batches(model), log)
            points |= log.points
        torch.save((model.state_dict(), points), Path(folder) / f"{kind}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(on_cpu: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(train_cases, (2, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_train_as_one_process(kind: str, trained: Path, tmp_path: Path) -> None:
    alone, log = model_of(), Recorder(tmp_path)
    torch.set_num_threads(1)
    train(alone, HOW, STEPS, batches(alone), log)
    assert all(point["auxiliary_loss"] > 0 for point in log.points.values())
    for rank in range(2):
        weights, points = torch.load(trained / f"{kind}-{rank}.pt")
        for step, point in log.points.items():
            for name, value in point.items():
                # sums of rows in another order, over six updates
                wanted = value if kind == "exact" else pytest.approx(value, rel=1e-5)
                assert points[step][name] == wanted, (step, name)
        for name, weight in alone.state_dict().items():
            torch.testing.assert_close(weights[name], weight, rtol=0, atol=0 if kind == "exact" else 2e-5, msg=name)

"""A model that learns a prompt on two ranks of every kind: the curve and the prompt of one process."""

import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lm.config import ConfigError
from lm.model import Decoder
from lm.prompts import Ept
from lm.prompts.base import put_prompt
from lm.settings import KINDS as EVERY_KIND
from lm.training.loop import train
from tests.lm.models import toy_model
from tests.lm.ranks import join
from tests.lm.test_training import Recorder, batches, recipe

pytestmark = pytest.mark.usefixtures("on_cpu")
STEPS = 4
KINDS = [kind for kind in EVERY_KIND if shutil.which("g++") is not None or not kind.startswith("zero")]
HOW = recipe(shards=2)


def model_of() -> Decoder:
    model = toy_model(seed=1)
    put_prompt(model, Ept(length=3))
    return model


def train_cases(rank: int, world: int, folder: str) -> None:
    """Each kind; what is said of one that is refused."""
    join(rank, world, folder)
    for kind in KINDS:
        os.environ.update(TOKENMILL_PARALLEL=kind, TOKENMILL_OFFLOAD="0")
        scratch = Path(folder) / kind
        model, log = model_of(), Recorder(scratch)
        log.scratch = None if rank else scratch
        refused = ""
        try:
            train(model, HOW, STEPS, batches(model), log)
        except ConfigError as error:
            refused = str(error)
        torch.save((refused, {} if refused else model.state_dict()), Path(folder) / f"{kind}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(on_cpu: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(train_cases, (2, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_learn_the_prompt_of_one_process(kind: str, trained: Path, tmp_path: Path) -> None:
    alone, start = model_of(), toy_model(seed=1).state_dict()
    torch.set_num_threads(1)
    train(alone, HOW, STEPS, batches(alone), Recorder(tmp_path))
    for rank in range(2):
        refused, weights = torch.load(trained / f"{kind}-{rank}.pt")
        if kind == "zero3":
            assert refused.startswith("soft_prompt: zero3 cuts it")
            continue
        assert not refused and weights.keys() == alone.state_dict().keys()
        assert all(torch.equal(weights[name], weight) for name, weight in start.items())
        for name, weight in alone.state_dict().items():
            torch.testing.assert_close(weights[name], weight, rtol=0, atol=0 if kind == "exact" else 2e-4, msg=name)

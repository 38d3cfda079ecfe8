"""ZeRO-3 of tensors whose numbers no count of ranks divides, down to one number: a run that goes on from a checkpoint."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lm.embeddings import Bigram, Smear
from lm.linears import Pixelfly, SLTrain
from lm.model import Decoder
from lm.training.loop import train
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.ranks import join
from tests.lm.test_training import Recorder, batches, recipe

pytestmark = [
    pytest.mark.usefixtures("on_cpu"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed needs g++ on a CPU"),
]
STEPS, STOP_AFTER, LAYERS = 5, 2, 1
# by the name of a case: the embeddings of its model, and how its matrices are held
CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "embeddings": ([Smear(columns=3), Bigram(rows=7)], {}),
    "pixelfly": ([], {"linear": Pixelfly(block=8)}),
    "sltrain": ([], {"linear": SLTrain()}),
}


def model_of(case: str) -> Decoder:
    return toy_model(seed=1, layers=LAYERS, embeddings=CASES[case][0])


def train_cases(rank: int, world: int, folder: str) -> None:
    """Each case: some steps, a stop with a checkpoint, and the rest from it."""
    join(rank, world, folder)
    os.environ.update(TOKENMILL_PARALLEL="zero3", TOKENMILL_OFFLOAD="0")
    for case, (_, more) in CASES.items():
        for stop_after in (STOP_AFTER, None):
            model, log = model_of(case), Recorder(Path(folder) / case, stop_after)
            log.scratch = None if rank else Path(folder) / case
            with suppress(Stopped):
                train(model, recipe(shards=2, **more), STEPS, batches(model), log)
        torch.save(model.state_dict(), Path(folder) / f"{case}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(on_cpu: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(train_cases, (2, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_what_two_ranks_cannot_halve_goes_on_as_in_one_process(case: str, trained: Path, tmp_path: Path) -> None:
    alone, log = model_of(case), Recorder(tmp_path)
    torch.set_num_threads(1)
    train(alone, recipe(shards=2, **CASES[case][1]), STEPS, batches(alone), log)
    for rank in range(2):
        weights = torch.load(trained / f"{case}-{rank}.pt")
        for name, weight in alone.state_dict().items():
            torch.testing.assert_close(weights[name], weight, rtol=0, atol=2e-5, msg=name)


def test_pieces_by_hand() -> None:
    from lm.training.parallel.zero import piece_of

    value = torch.tensor([[1.0, 2.0, 3.0]])
    assert [piece_of(value, 2, rank).tolist() for rank in range(3)] == [[1.0, 2.0], [3.0, 0.0], [0.0, 0.0]]
    assert [piece_of(torch.tensor(5.0), 1, rank).tolist() for rank in range(2)] == [[5.0], [0.0]]

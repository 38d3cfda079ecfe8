"""Matrices that are held otherwise than dense, over two ranks: with `exact` in the bits of one process, else in its numbers."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lm.linears import DoRA, FrozenLower, LoRA, QLoRA, SaRA
from lm.linears.base import Holding
from lm.optimizers import AdamW
from lm.training.loop import train
from lm.training.recipe import Recipe
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.ranks import join
from tests.lm.test_training import Recorder, batches, recipe

pytestmark = pytest.mark.usefixtures("on_cpu")
STEPS, STOP_AFTER = 6, 4
METHODS: list[Holding] = [LoRA(up_rate=4.0), DoRA(), QLoRA(block=16), SaRA(repick=3, penalty=0.01), FrozenLower()]
# the kind of the first steps, and of those that go on from their checkpoint
KINDS = [("exact", "exact"), ("fsdp", "ddp")]


def how(method: Holding) -> Recipe:
    # AdamW divides by the root of squares: sums in another order show in the first updates, where a gradient is near 0
    return recipe(optimizer=lambda: AdamW(eps=1e-3), shards=2, linear=method)


def train_all(rank: int, world: int, folder: str) -> None:
    join(rank, world, folder)
    with pytest.MonkeyPatch.context() as patch:
        for method in METHODS:
            for kinds in KINDS:
                scratch = Path(folder) / f"{method.name}-{kinds[0]}"
                for kind, stop_after in zip(kinds, (STOP_AFTER, None), strict=True):
                    patch.setenv("TOKENMILL_PARALLEL", kind)
                    model, log = toy_model(seed=1), Recorder(scratch, stop_after)
                    log.scratch = None if rank else scratch
                    with suppress(Stopped):
                        train(model, how(method), STEPS, batches(model), log)
                torch.save(model.state_dict(), f"{scratch}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(on_cpu: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(train_all, (2, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_ranks_that_stop_and_go_on_train_as_one_process(method: Holding, trained: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model = toy_model(seed=1)
    train(model, how(method), STEPS, batches(model), Recorder(tmp_path))
    for kind, _ in KINDS:
        for rank in (0, 1):
            found = torch.load(trained / f"{method.name}-{kind}-{rank}.pt")
            assert found.keys() == model.state_dict().keys()
            for name, weight in model.state_dict().items():
                if kind == "exact":
                    assert torch.equal(found[name], weight), name
                else:
                    torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-5, msg=f"{kind} {name}")

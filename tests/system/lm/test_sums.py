"""Gradients of buckets that are summed while the backward goes on: the bits of one sum over all shards, on any ranks."""

import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from lm.model import Decoder
from lm.optimizers import AdamW
from lm.training.batch import Batch, Metrics, backward, split_batch
from lm.training.data.conversations import places, token_logps
from lm.training.parallel import sums
from lm.training.parallel.exact import Exact
from tests.lm.models import toy_model
from tests.lm.ranks import join
from tests.processes import PATIENCE
from tests.system.lm.test_parallel import recursive_sum

pytestmark = pytest.mark.usefixtures("on_cpu")
ROWS, LENGTH, SHARDS = 8, 16, 4
SMALL = 6000  # bytes of a bucket, so that the toy model has several


def batch_of(model: Decoder, step: int) -> Batch:
    """The first shard learns of the embedding alone, so that a bucket has a gradient in some shards and ranks."""
    ids = torch.randint(0, 261, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(step))

    def loss(rows: slice) -> tuple[Tensor, Metrics]:
        if rows.start < ROWS // SHARDS:
            return model.embedding.weight.square().sum(), {"rows": 1.0}
        logps = token_logps(model, ids[rows], places(torch.ones_like(ids[rows, 1:])))
        return -logps.sum() / 64, {"rows": 1.0, "highest": logps.detach().max()}

    return Batch(ROWS, LENGTH, ROWS * LENGTH, lambda rows: with_all(*loss(rows)))


def with_all(share: Tensor, metrics: Metrics) -> tuple[Tensor, Metrics]:
    return share, {"highest": 0.0, **metrics}


def frozen_model() -> Decoder:
    """Of which a part of a bucket learns nothing, and a whole bucket."""
    model = toy_model(seed=1)
    model.blocks[0].attention.query.weight.requires_grad_(False)
    model.norm.weight.requires_grad_(False)
    return model


def summed(model: Decoder, step: int) -> tuple[dict[str, Tensor], list[Tensor]]:
    """What it must be: gradients of each shard by itself, and its loss and metrics, added in the order of a tree."""
    batch, shards = batch_of(model, step), []
    for rows in split_batch(batch, SHARDS, "shards"):
        model.zero_grad(set_to_none=True)
        loss, metrics = backward(batch, LENGTH, rows)
        grads = {n: torch.zeros_like(w) if w.grad is None else w.grad for n, w in model.named_parameters()}
        shards.append((grads, [torch.as_tensor(x) for x in (loss, metrics["highest"], metrics["rows"])]))
    model.zero_grad(set_to_none=True)
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    numbers = [recursive_sum([numbers[place] for _, numbers in shards]) for place in range(3)]
    return {name: recursive_sum([grads[name] for grads, _ in shards]) for name in names}, numbers


def check_bits(rank: int, world: int, folder: str) -> None:
    if world > 1:
        join(rank, world, folder)
    sums.BUCKET_BYTES = SMALL
    model = frozen_model()
    parallel = Exact(SHARDS)
    parallel.distribute(model, AdamW())
    assert len(parallel._sums._buckets) > 4
    for step in range(2):
        grads, numbers = summed(model, step)
        loss, metrics = parallel.backward(batch_of(model, step), LENGTH)  # a row at once: two passes a shard
        assert [loss, metrics["highest"], metrics["rows"]] == numbers and metrics.keys() == {"highest", "rows"}
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                assert torch.equal(weight.grad, grads[name]), name
            else:
                assert weight.grad is None, name
    parallel.finish()
    assert not any(weight._post_accumulate_grad_hooks for weight in model.parameters())
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_bits_are_those_of_one_tree_over_all_shards(
    world: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if world == 1:
        monkeypatch.setattr(sums, "BUCKET_BYTES", SMALL)
        check_bits(0, 1, "")
    else:
        mp.spawn(check_bits, (world, str(tmp_path)), nprocs=world)


def hold_the_backward(rank: int, world: int, folder: str) -> None:
    """The last backward waits at the first layer until the first bucket is summed over the ranks."""
    join(rank, world, folder)
    sums.BUCKET_BYTES = SMALL
    events: list[str] = []
    summed_one, real = threading.Event(), sums.sum_over_ranks_

    def sum_over_ranks_(values_N: Tensor) -> None:
        events.append(f"sum of {len(values_N)} begins")
        real(values_N)
        summed_one.set()

    sums.sum_over_ranks_ = sum_over_ranks_
    model = toy_model(seed=1)
    parallel, passes = Exact(2), []
    parallel.distribute(model, AdamW())

    def at_the_first_layer(grad: Tensor) -> None:
        passes.append(len(events))
        if len(passes) == ROWS // 2:
            assert summed_one.wait(PATIENCE), "nothing was exchanged while the backward went on"
            events.append("first layer")

    model.embedding.weight.register_hook(at_the_first_layer)
    parallel.backward(batch_of(model, 0), LENGTH)
    # rows that are not the last make no gradient final
    assert len(passes) == ROWS // 2 and not any(passes[:-1])
    begun = [event for event in events if event != "first layer"]
    assert len(begun) == len(parallel._sums._buckets) and 0 < events.index("first layer") < len(begun)
    torch.save(begun, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_a_bucket_is_summed_over_the_ranks_before_the_backward_ends(tmp_path: Path) -> None:
    mp.spawn(hold_the_backward, (2, str(tmp_path)), nprocs=2)
    mine, others = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert mine == others, "the ranks exchange buckets in orders of their own"


def test_buckets_are_runs_from_the_last_weight_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "BUCKET_BYTES", 100)
    weights = [nn.Parameter(torch.zeros(size)) for size in (30, 1, 25, 5, 20, 24)]
    buckets = sums.in_buckets(weights)
    assert [[weight.numel() for weight in bucket] for bucket in buckets] == [[24, 20], [5, 25], [1, 30]]
    assert [weight for bucket in buckets for weight in bucket] == weights[::-1]


def test_what_an_exchange_raises_is_raised_where_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(values_N: Tensor) -> None:
        raise RuntimeError("a rank has ended")

    monkeypatch.setattr(sums, "sum_over_ranks_", ended)
    exchange = sums.Exchange(torch.device("cpu"))
    exchange.begin(torch.zeros(2))
    with pytest.raises(RuntimeError, match="a rank has ended"):
        exchange.wait()

"""Newton-Schulz shared out among ranks: as much work for each, and the bits of one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from flows.forecast.fake_gpu import on_gpu
from kernels.newton_schulz import cpu, newton_schulz
from lm.config import Config, ConfigError
from lm.distributed import shared_out
from lm.linears.base import roles_of
from lm.optimizers import AdamW, Muon, MuonEq, NorMuon, Soap, SoapMuon, orthogonal
from lm.training.parallel.fsdp import FSDP
from tests.lm.models import toy_model
from tests.lm.ranks import join
from tests.lm.test_training import recipe

SHAPES = [(12, 8), (8, 12), (8, 8), (3, 40), (12, 8), (8, 8), (1, 5), (12, 8), (40, 3)]
RANKS = [2, 3, 4]


def test_the_costliest_goes_to_who_has_least() -> None:
    # 5 | 3, the other 3 to the 3, 2 to the 5, and 1 to the 3 + 3: 7 each
    assert shared_out([1, 5, 3, 3, 2], 2) == [1, 0, 1, 1, 0]
    assert shared_out([4, 4], 3) == [0, 1] and shared_out([], 2) == []


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=40), st.integers(1, 8))
def test_nobody_has_much_more_than_the_mean(costs: list[int], parts: int) -> None:
    owners = shared_out(costs, parts)
    loads = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == part) for part in range(parts)]
    assert sum(loads) == sum(costs)
    # who got the last of its pieces had least before it, and pieces come from large to small
    last = max(range(parts), key=loads.__getitem__)
    smallest = min(cost for cost, owner in zip(costs, owners, strict=True) if owner == last)
    assert loads[last] - smallest <= (sum(costs) - smallest) / parts


def matrices() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def gradients(model: torch.nn.Module, step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(weight.shape, generator=generator) for name, weight in model.named_parameters()}


def share(rank: int, world: int, folder: str) -> None:
    join(rank, world, folder)
    cpu.BATCH = 96  # a matrix or two
    worked: list[int] = []

    def counted(some: list[Tensor], *iteration: Any) -> list[Tensor]:
        worked.append(len(some))
        return newton_schulz(some, *iteration)

    orthogonal.newton_schulz = counted  # type: ignore[attr-defined]
    found, sides = orthogonal.orthogonalised(matrices(), orthogonal.Iteration(5))
    alone = newton_schulz(matrices(), 5)
    assert sides == [12, 12, 8, 40, 12, 8, 5, 12, 40]
    assert all(torch.equal(mine, matrix) for mine, matrix in zip(found, alone, strict=True))
    assert 0 < sum(worked) < len(SHAPES)
    total = torch.tensor(sum(worked))
    dist.all_reduce(total)
    assert total == len(SHAPES)  # nothing twice
    for method, atol in (
        (Muon(lr=0.1), 0.0),
        (Muon(lr=0.1, coefficients="polar_express", cautious_decay=True), 0.0),
        (NorMuon(lr=0.1, cautious=True), 1e-6),
        (MuonEq(lr=0.1, sides="both"), 1e-6),
        (AdamW(lr=0.1, cautious=True), 0.0),
    ):
        steps_of_fsdp(method, atol)
    for squares in (Soap(), SoapMuon()):
        with pytest.raises(ConfigError, match=f"{squares.name} keeps matrices over all rows and columns of a weight"):
            FSDP(recipe(optimizer=type(squares))).distribute(toy_model(seed=1), squares)
    dist.destroy_process_group()


def steps_of_fsdp(method: Config, atol: float) -> None:
    """From the same gradients, three steps of the optimizer on parts of weights and of one on whole ones. atol: where a norm is
    the root of the ranks' sums, in another order."""
    model, plain = toy_model(seed=1), toy_model(seed=1)
    parallel = FSDP(recipe(optimizer=lambda: method))
    named = list(plain.named_parameters())
    sharded, whole = parallel.distribute(model, method), method.build(named, roles_of(plain))
    for step in range(3):
        for name, grad in gradients(plain, step).items():
            parallel.local_parameters()[name].grad = parallel.shard(name, grad)
            dict(plain.named_parameters())[name].grad = grad
        sharded.step()
        whole.step()
    weights = parallel.weights()
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(weights[name], weight.detach(), rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("world", RANKS)
def test_ranks_share_the_work_and_find_the_bits_of_one(world: int, tmp_path: Path) -> None:
    mp.spawn(share, (world, str(tmp_path)), nprocs=world)


def test_a_gpu_multiplies_in_bf16() -> None:
    with on_gpu(), FakeTensorMode():
        assert newton_schulz([torch.empty(8, 6)], 5)[0].dtype == torch.bfloat16
        updated, sides = orthogonal.orthogonalised([torch.empty(8, 6), torch.empty(3, 4)], orthogonal.Iteration(5))
    assert [matrix.dtype for matrix in updated] == [torch.float32] * 2 and sides == [8, 4]

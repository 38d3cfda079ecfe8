"""1-bit Adam on real ranks (gloo), beside Adam and beside a simulation that knows nothing of packing or collectives."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from kernels.signs import BLOCK
from lm.linears.base import Roles
from lm.optimizers import OneBitAdam

SHAPES = {
    "blocks.0.up.weight": (64, 80),
    "blocks.1.up.weight": (24, 50),
    "embedding.weight": (30, 16),
    "norm.weight": (16,),
}
ROLES: Roles = {
    "blocks.0.up.weight": "matrix",
    "blocks.1.up.weight": "matrix",
    "embedding.weight": "table",
    "norm.weight": "vector",
}
pytestmark = pytest.mark.usefixtures("on_cpu")
FREEZE, STEPS = 4, 12
METHOD = OneBitAdam(lr=0.01, freeze_after=FREEZE, weight_decay=0.1)


def weights() -> list[tuple[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    return [(name, nn.Parameter(torch.randn(shape, generator=generator))) for name, shape in SHAPES.items()]


def gradient(name: str, step: int, rank: int) -> Tensor:
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(1000 * step + 10 * rank + len(name)))


def train_rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    named = weights()
    optimizer = METHOD.build(named, ROLES)
    sent = []
    for step in range(STEPS):
        for name, weight in named:
            weight.grad = gradient(name, step, rank)
        optimizer.step()
        sent.append(optimizer.bytes_sent)
    state = optimizer.state[named[0][1]]
    errors = [state["worker_error"], state["server_error"]]
    torch.save(([weight.detach() for _, weight in named], errors, sent), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[tuple]:
    """(weights, errors, bytes sent so far after each step) of each rank."""
    folder, world = tmp_path_factory.mktemp("ranks"), request.param
    mp.spawn(train_rank, (world, str(folder)), nprocs=world)
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(world)]


def sign(values: Tensor) -> Tensor:
    """Each entry as plus or minus the mean magnitude of its block."""
    blocks = values.view(-1, BLOCK)
    return (torch.where(blocks >= 0, 1.0, -1.0) * blocks.abs().mean(1, keepdim=True)).flatten()


def simulate(world: int, decay: float = 0.1) -> list[Tensor]:
    """The same run in one process: every rank's momentum beside the others."""
    start = dict(weights())
    w = {name: start[name].detach().clone() for name in SHAPES}
    m, v = ({name: torch.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2))
    hidden = [name for name in SHAPES if name.startswith("blocks")]
    size = sum(w[name].numel() for name in hidden)
    whole = -(-size // (BLOCK * world)) * BLOCK * world
    lost_by_worker = [torch.zeros(whole) for _ in range(world)]
    lost_by_server = torch.zeros(whole)
    for step in range(1, STEPS + 1):
        frozen = step > FREEZE
        if frozen:
            said = []
            for rank in range(world):
                local = [0.9 * m[name] + 0.1 * gradient(name, step - 1, rank) for name in hidden]
                flat = torch.cat([x.flatten() for x in local] + [torch.zeros(whole - size)]) + lost_by_worker[rank]
                said.append(sign(flat))
                lost_by_worker[rank] = flat - said[-1]
            mean = sum(said) / world + lost_by_server
            heard = sign(mean)
            lost_by_server = mean - heard
            for name, part in zip(hidden, heard[:size].split([w[n].numel() for n in hidden]), strict=True):
                m[name] = part.view(SHAPES[name])
        for name in SHAPES:
            if not (frozen and name in hidden):
                grad = sum(gradient(name, step - 1, rank) for rank in range(world)) / world
                m[name] = 0.9 * m[name] + 0.1 * grad
                v[name] = 0.95 * v[name] + 0.05 * grad**2
            seen = FREEZE if frozen and name in hidden else step
            root = (v[name] / (1 - 0.95**seen)).sqrt() + 1e-8
            w[name] = (
                w[name] * (1 - 0.01 * (decay if w[name].ndim > 1 else 0)) - 0.01 * m[name] / (1 - 0.9**step) / root
            )
    return list(w.values())


def test_every_rank_has_the_same_weights_and_they_are_those_of_the_simulation(ranks: list[tuple]) -> None:
    for found, _, _ in ranks:
        assert all(torch.equal(a, b) for a, b in zip(found, ranks[0][0], strict=True))
    for found, expected in zip(ranks[0][0], simulate(len(ranks)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # sums in another order


def test_what_the_signs_lost_differs_from_rank_to_rank(ranks: list[tuple]) -> None:
    assert not torch.equal(ranks[0][1][0], ranks[1][1][0])
    assert all(error.any() for _, errors, _ in ranks for error in errors)


def test_bytes_on_the_wire(ranks: list[tuple]) -> None:
    world, (_, _, sent) = len(ranks), ranks[0]
    hidden = 64 * 80 + 24 * 50
    whole = -(-hidden // (BLOCK * world)) * BLOCK * world
    dense = 2 * (world - 1) * 4
    assert sent[0] == dense * hidden // world + dense * 30 * 16 // world + dense * 16 // world
    signs = 2 * (world - 1) * (whole // 8 + whole // BLOCK * 4) // world
    assert sent[-1] - sent[-2] == signs + sent[0] - dense * hidden // world
    # 32 bits become 1 and a scale a block
    assert dense * whole // world / signs > 31 * 0.99


def test_one_rank_compresses_nothing_and_begins_as_adam() -> None:
    named, theirs = weights(), weights()
    ours = METHOD.build(named, ROLES)
    decays = [{"params": [w for _, w in theirs[:3]]}, {"params": [theirs[3][1]], "weight_decay": 0.0}]
    peer = torch.optim.AdamW(decays, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(FREEZE):
        for pair, optimizer in ((named, ours), (theirs, peer)):
            for name, weight in pair:
                weight.grad = gradient(name, step, 0)
            optimizer.step()
    for (_, mine), (_, other) in zip(named, theirs, strict=True):
        torch.testing.assert_close(mine, other)
    assert ours.bytes_sent == 0

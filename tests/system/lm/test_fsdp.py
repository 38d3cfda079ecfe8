"""What FSDP gathers and reduces in a step, in which type and how often, and that the numbers are those of one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lm.linears import Dense, DoRA, FewBits
from lm.linears.base import LinearMethod, roles_of
from lm.model import Decoder
from lm.optimizers import AdamW
from lm.training.batch import Batch, backward
from lm.training.data.conversations import places, token_logps
from lm.training.parallel import fsdp
from lm.training.precision import autocast
from tests.lm.models import toy_model
from tests.lm.ranks import join
from tests.lm.test_training import recipe

pytestmark = pytest.mark.usefixtures("on_cpu")
RANKS, PARTS, LENGTH, STEPS = 2, 4, 16, 3
ROWS = RANKS * PARTS
CPU = torch.device("cpu")
# (precision, whether a step keeps whole weights)
CASES = [("fp32", True), ("fp32", False), ("bf16", True), ("bf16", False)]
# AdamW divides by the root of squares: sums in another order show in the first updates, where a gradient is near 0
OPTIMIZER = AdamW(eps=1e-3)


class Collectives(TorchDispatchMode):
    """(operator, type of what it was given) of each collective."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            given = args[0][0] if isinstance(args[0], list | tuple) else args[1]
            self.made.append((func._opname, given.dtype))
        return func(*args, **(kwargs or {}))


def model_of() -> Decoder:
    """Norms that bf16 would round."""
    model, generator = toy_model(seed=1, qkv_bias=True), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def everywhere(ids_BN: Tensor) -> Tensor:
    """All predictions count."""
    return places(torch.ones_like(ids_BN[:, 1:]))


def batch_of(model: Decoder, step: int) -> Batch:
    ids = torch.randint(0, 261, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(step))
    count = ROWS * LENGTH
    return Batch(
        ROWS, LENGTH, count, lambda rows: (-token_logps(model, ids[rows], everywhere(ids[rows])).sum() / count, {})
    )


@torch.inference_mode()
def generation(model: Decoder, step: int) -> None:
    """A use of the model before the step's loss, as of a stage that samples."""
    batch_of(model, step).loss(slice(0, 1))


def train(rank: int, world: int, folder: str) -> None:
    """Per case: the collectives of the second step, the first gradients, whole, and the weights after the last step."""
    join(rank, world, folder)
    for precision, keeps in CASES:
        model, how = model_of(), recipe(optimizer=lambda: OPTIMIZER, precision=precision)
        fsdp.memory_bytes = lambda device, keeps=keeps: 2**34 if keeps else 2**10
        parallel = fsdp.FSDP(how)
        optimizer = parallel.distribute(model, how.optimizer)
        assert parallel.between_parts == ("keeps whole weights" if keeps else "cuts weights")
        gathered = (2 if precision == "bf16" else 4) + 4 if keeps else 0
        assert parallel.bytes_a_weight == 20 / RANKS + gathered
        grads = {}
        for step in range(STEPS):
            parallel.zero_grad()
            optimizer.begin(step)
            with Collectives() as seen, autocast(precision, CPU):
                parallel.call(lambda model=model, step=step: generation(model, step))
                loss, _ = parallel.backward(batch_of(model, step), LENGTH)
            norm = parallel.clip(1e9)
            if step == 0:
                first = loss, norm
                grads = {name: parallel.gather(name, held.grad) for name, held in parallel.local_parameters().items()}
            if step == 1:
                made = seen.made
            parallel.step()
        parallel.finish()
        found = made, first, {n: g.clone() for n, g in grads.items()}, model.state_dict()
        torch.save(found, Path(folder) / f"{precision}-{keeps}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(on_cpu: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(train, (RANKS, str(folder)), nprocs=RANKS)
    return folder


def alone(precision: str) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """The same by one process: (loss and norm, first gradients, last weights)."""
    torch.set_num_threads(1)
    model = model_of()
    optimizer = OPTIMIZER.build(list(model.named_parameters()), roles_of(model))
    for step in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        optimizer.begin(step)
        with autocast(precision, CPU):
            loss, _ = backward(batch_of(model, step), LENGTH)
        if step == 0:
            grads = {name: weight.grad.clone() for name, weight in model.named_parameters()}
            first = loss, torch.nn.utils.get_total_norm(grads.values())
        optimizer.step()
    return first, grads, model.state_dict()


@pytest.mark.parametrize(("precision", "keeps"), CASES)
def test_collectives_of_a_step_of_four_parts(precision: str, keeps: bool, trained: Path) -> None:
    """Two blocks and the group of what is left. Kept whole, each is gathered once, before the generation, and reduced once;
    else a block is gathered for each forward and backward, and all are reduced after each part."""
    made, *_ = torch.load(trained / f"{precision}-{keeps}-0.pt")
    low = torch.bfloat16 if precision == "bf16" else torch.float32
    gathers = [dtype for name, dtype in made if "allgather" in name]
    reduces = [dtype for name, dtype in made if "reduce_scatter" in name]
    blocks, rest = (2, 1) if keeps else (2 * (1 + 2 * PARTS), PARTS)
    assert sorted(map(str, gathers)) == sorted(map(str, [low] * blocks + [torch.float32] * rest))
    assert reduces == [torch.float32] * (3 if keeps else 3 * PARTS)
    # the figures, and the gradients of norms and biases
    assert [dtype for name, dtype in made if "allreduce" in name] == [torch.float32] * 2


@pytest.mark.parametrize(("precision", "keeps"), CASES)
def test_gradients_and_weights_are_those_of_one_process(precision: str, keeps: bool, trained: Path) -> None:
    """To the order of fp32 sums, in bf16 too: each part rounds what it would alone."""
    _, (loss, norm), grads, weights = torch.load(trained / f"{precision}-{keeps}-0.pt")
    (loss_alone, norm_alone), grads_alone, weights_alone = alone(precision)
    torch.testing.assert_close(loss, loss_alone, rtol=1e-6, atol=0)
    torch.testing.assert_close(norm, norm_alone, rtol=1e-6, atol=0)
    assert grads.keys() == grads_alone.keys() and weights.keys() == weights_alone.keys()
    for name, grad in grads_alone.items():
        torch.testing.assert_close(grads[name], grad, rtol=0, atol=1e-6 * grad.abs().max().item(), msg=name)
    for name, weight in weights_alone.items():
        # bf16: after an update sums in another order round some product the other way
        atol = 1e-6 if precision == "fp32" else 1e-4
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize(("precision", "keeps"), CASES)
def test_ranks_end_with_the_same_weights(precision: str, keeps: bool, trained: Path) -> None:
    mine, others = (torch.load(trained / f"{precision}-{keeps}-{rank}.pt")[-1] for rank in range(RANKS))
    assert all(torch.equal(others[name], weight) for name, weight in mine.items())


# a block that has a matrix which is used otherwise than in a product under autocast: as it is, or as the sum that it is held by
UNLIKE: dict[str, tuple[dict[str, Any], LinearMethod]] = {
    "dense": ({}, Dense()),
    "hyena": ({"mixer": {"name": "hyena"}}, Dense()),
    "one of hyena": ({"pattern": [{}, {"mixer": {"name": "hyena"}}]}, Dense()),
    "few_bits": ({}, FewBits()),
    "dora": ({}, DoRA()),
}


def unlike(name: str) -> Decoder:
    shape, linear = UNLIKE[name]
    model, generator = toy_model(seed=1, **shape), torch.Generator().manual_seed(5)
    model.reparametrize(linear)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def first_steps(rank: int, world: int, folder: str) -> None:
    """Per model: the loss of a step and its gradients, whole."""
    join(rank, world, folder)
    for name in UNLIKE:
        model, how = unlike(name), recipe(optimizer=lambda: OPTIMIZER, precision="bf16")
        parallel = fsdp.FSDP(how)
        parallel.distribute(model, how.optimizer)
        with autocast("bf16", CPU):
            loss, _ = parallel.backward(batch_of(model, 0), LENGTH)
        parallel.clip(1e9)
        held = {place: weight for place, weight in parallel.local_parameters().items() if weight.grad is not None}
        grads = {place: parallel.gather(place, weight.grad).clone() for place, weight in held.items()}
        torch.save((loss, grads, parallel.bytes_a_weight), Path(folder) / f"{name}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def stepped(on_cpu: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(first_steps, (RANKS, str(folder)), nprocs=RANKS)
    return folder


@pytest.mark.parametrize("name", UNLIKE)
def test_what_autocast_does_not_round_is_gathered_as_it_is(name: str, stepped: Path) -> None:
    """Of weights rounded before, few_bits would count other whole numbers, and hyena's filters fail."""
    torch.set_num_threads(1)
    loss, grads, _ = torch.load(stepped / f"{name}-0.pt")
    model = unlike(name)
    with autocast("bf16", CPU):
        loss_alone, _ = backward(batch_of(model, 0), LENGTH)
    torch.testing.assert_close(loss, loss_alone, rtol=1e-6, atol=0)
    alone = {place: weight.grad for place, weight in model.named_parameters() if weight.grad is not None}
    assert grads.keys() == alone.keys()
    for place, grad in alone.items():
        torch.testing.assert_close(grads[place], grad, rtol=0, atol=1e-6 * grad.abs().max().item(), msg=place)


def test_what_is_gathered_in_fp32_counts_4_bytes_a_weight(stepped: Path) -> None:
    """Of a model one of whose blocks is hyena's, that one; the others, and what is in no block, 2."""
    figures = {name: torch.load(stepped / f"{name}-0.pt")[2] - 20 / RANKS - 4 for name in UNLIKE}
    assert figures["dense"] == 2
    for name, blocks in (("hyena", slice(None)), ("one of hyena", slice(1, None)), ("few_bits", slice(None))):
        model = unlike(name)
        wide = sum(weight.numel() for block in list(model.blocks)[blocks] for weight in block.parameters())
        assert figures[name] == pytest.approx(2 + 2 * wide / model.num_parameters(), rel=1e-12)

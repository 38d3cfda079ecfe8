"""Optimizers: what every one of them must do, AdamW beside torch's, and Muon beside torch's and a case worked by hand."""

import io

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from lm import optimizers
from lm.config import Config, methods_of
from lm.linears.base import Roles
from lm.optimizers import AdamW, Muon
from lm.optimizers.orthogonal import Iteration, muon_

EVERY = pytest.mark.parametrize("method", methods_of(optimizers), ids=lambda method: method.__name__)
SHAPES = {
    "embedding.weight": (11, 6),
    "blocks.0.up.weight": (8, 6),
    "blocks.0.down.weight": (6, 8),
    "norm.weight": (6,),
}


ROLES: Roles = {
    "embedding.weight": "table",
    "blocks.0.up.weight": "matrix",
    "blocks.0.down.weight": "matrix",
    "norm.weight": "vector",
}


def weights(seed: int = 0) -> list[tuple[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(seed)
    return [(name, nn.Parameter(torch.randn(shape, generator=generator))) for name, shape in SHAPES.items()]


def set_gradients(named: list[tuple[str, nn.Parameter]], step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for _, weight in named:
        weight.grad = torch.randn(weight.shape, generator=generator)


def values(named: list[tuple[str, nn.Parameter]]) -> list[Tensor]:
    return [weight.detach().clone() for _, weight in named]


@EVERY
def test_descends_a_quadratic(method: type[Config]) -> None:
    named, goals = weights(0), values(weights(1))
    optimizer = method().build(named, ROLES)

    def loss() -> Tensor:
        return sum(((weight - goal) ** 2).sum() for (_, weight), goal in zip(named, goals, strict=True))

    before = loss().item()
    for step in range(100):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / 100)
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    # A way of 5 for AdamW and of 1 for Muon, whose updates are 0.2 lr, to goals that are 1.4 away.
    assert loss().item() < 0.3 * before


@EVERY
def test_a_weight_without_gradient_is_left_alone_and_has_no_state(method: type[Config]) -> None:
    named = weights()
    before = values(named)
    optimizer = method().build(named, ROLES)
    set_gradients(named, 0)
    for still in (0, 2):
        named[still][1].grad = None
    optimizer.step()
    moved = [not torch.equal(old, new) for old, new in zip(before, values(named), strict=True)]
    assert moved == [False, True, False, True]
    assert {weight is named[i][1] for i in (0, 2) for weight in optimizer.state if optimizer.state[weight]} == {False}


@EVERY
def test_same_gradients_same_bytes(method: type[Config]) -> None:
    first, second = weights(), weights()
    for named in (first, second):
        optimizer = method().build(named, ROLES)
        for step in range(5):
            set_gradients(named, step)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(values(first), values(second), strict=True))


@EVERY
def test_state_of_tensors_through_safetensors_continues_to_the_bit(method: type[Config]) -> None:
    whole, resumed = weights(), weights()
    optimizer = method().build(whole, ROLES)
    for step in range(3):
        set_gradients(whole, step)
        optimizer.step()
    saved = optimizer.state_dict()
    file = save({f"{index}.{slot}": t for index, slots in saved["state"].items() for slot, t in slots.items()})
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in load(io.BytesIO(file).getvalue()).items():
        index, slot = key.split(".")
        state.setdefault(int(index), {})[slot] = tensor
    for (_, weight), now in zip(resumed, values(whole), strict=True):
        weight.data.copy_(now)
    second = method().build(resumed, ROLES)
    second.load_state_dict({"state": state, "param_groups": second.state_dict()["param_groups"]})
    for step in range(3, 6):
        for named, one in ((whole, optimizer), (resumed, second)):
            set_gradients(named, step)
            one.step()
    assert all(torch.equal(a, b) for a, b in zip(values(whole), values(resumed), strict=True))


@EVERY
def test_a_factor_of_zero_moves_nothing(method: type[Config]) -> None:
    named = weights()
    before = values(named)
    optimizer = method().build(named, ROLES)
    assert all(group["lr"] == group["base_lr"] for group in optimizer.param_groups)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * 0.0
    set_gradients(named, 0)
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, values(named), strict=True))


@EVERY
def test_vectors_do_not_decay_and_matrices_do(method: type[Config]) -> None:
    decaying, plain = weights(), weights()
    for named, decay in ((decaying, 1.0), (plain, 0.0)):
        set_gradients(named, 0)
        method(weight_decay=decay).build(named, ROLES).step()
    assert [torch.equal(a, b) for a, b in zip(values(decaying), values(plain), strict=True)] == [
        False,
        False,
        False,
        True,
    ]


@EVERY
def test_only_the_groups_that_have_members(method: type[Config]) -> None:
    (group,) = method().build(weights()[-1:], ROLES).param_groups
    assert group["weight_decay"] == 0.0


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_equals_torch(weight_decay: float) -> None:
    mine, theirs = weights(), weights()
    ours = AdamW(lr=0.01, weight_decay=weight_decay).build(mine, ROLES)
    decays = [{"params": [w for _, w in theirs[:3]]}, {"params": [theirs[3][1]], "weight_decay": 0.0}]
    peer = torch.optim.AdamW(decays, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay, foreach=False)
    for step in range(10):
        for named, optimizer in ((mine, ours), (theirs, peer)):
            set_gradients(named, step)
            optimizer.step()
    for a, b in zip(values(mine), values(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_muon_step_of_one_matrix_by_hand() -> None:
    # A 1 x 4 gradient g has one singular value, so Newton-Schulz gives p(1) g / |g| with p(1) after one step
    # 3.4445 - 4.7750 + 2.0315 = 0.7010. Nesterov: g (1 - 0.05 * 0.95 ...) only changes the length, which the norm removes.
    # Step: -lr * 0.2 * sqrt(4) * 0.7010 * g / |g| after the decay by 1 - lr * 0.5; |(1, 2, 2, 4)| = 5.
    weight, grad = torch.tensor([[1.0, 1.0, 1.0, 1.0]]), torch.tensor([[1.0, 2.0, 2.0, 4.0]])
    momentum = torch.zeros(1, 4)
    muon_([weight], [grad], [momentum], lr=0.1, momentum=0.95, nesterov=True, iteration=Iteration(1), weight_decay=0.5)
    torch.testing.assert_close(momentum, 0.05 * grad)
    torch.testing.assert_close(weight, 0.95 - 0.1 * 0.2 * 2 * 0.7010 * grad / 5, rtol=1e-5, atol=0)


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_equals_torch_within_bf16(nesterov: bool) -> None:
    mine, theirs = ([pair for pair in weights() if pair[0].startswith("blocks")] for _ in range(2))
    before = values(mine)
    ours = Muon(lr=0.1, nesterov=nesterov).build(mine, ROLES)
    peer = torch.optim.Muon(
        [w for _, w in theirs],
        lr=0.1,
        weight_decay=0.1,
        momentum=0.95,
        nesterov=nesterov,
        adjust_lr_fn="match_rms_adamw",
    )
    for step in range(3):
        for named, optimizer in ((mine, ours), (theirs, peer)):
            set_gradients(named, step)
            optimizer.step()
    for a, b, start in zip(values(mine), values(theirs), before, strict=True):
        # torch iterates in bf16, 2^-8 a product and 5 x 3 products: a few percent of what was moved
        assert (a - b).norm() < 0.05 * (a - start).norm()


def test_muon_moves_every_shape_by_the_same_rms() -> None:
    for shape in [(64, 64), (16, 200), (200, 16)]:
        weight = torch.zeros(shape)
        grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        muon_(
            [weight],
            [grad],
            [torch.zeros(shape)],
            lr=1.0,
            momentum=0.95,
            nesterov=True,
            iteration=Iteration(5),
            weight_decay=0.0,
        )
        # 0.2, times singular values of 0.7 to 1.2
        assert 0.13 < weight.square().mean().sqrt() < 0.25


def test_muon_leaves_embeddings_head_and_vectors_to_adamw() -> None:
    named = weights()
    optimizer = Muon().build(named, ROLES)
    set_gradients(named, 0)
    optimizer.step()
    slots = [set(optimizer.state[weight]) for _, weight in named]
    assert slots == [{"step", "exp_avg", "exp_avg_sq"}, {"momentum"}, {"momentum"}, {"step", "exp_avg", "exp_avg_sq"}]

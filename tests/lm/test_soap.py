"""SOAP: by hand, and that it turns with the gradients as its paper says."""

import math

import pytest
import torch
from torch import Tensor, nn

from lm.optimizers import (
    AdamW,
    Soap,
)
from tests.lm.test_optimizers import ROLES, set_gradients, values, weights


def soap_moves(method: Soap, grads: list[Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """What each of these updates subtracts from a matrix, and the state after the last."""
    weight = nn.Parameter(torch.zeros_like(grads[0]))
    optimizer = method.build([("blocks.0.up.weight", weight)], ROLES)
    moves = []
    for grad in grads:
        before, weight.grad = weight.detach().clone(), grad
        optimizer.step()
        moves.append(before - weight.detach())
    return moves, optimizer.state[weight]


def random_grads(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -1.5, 6, dtype=torch.float64)[:, None] * torch.logspace(0, -1, 6, dtype=torch.float64)
    return [torch.randn(6, 6, dtype=torch.float64, generator=generator) * scale for _ in range(count)]


@pytest.mark.parametrize("every", [1, 3])
def test_soap_turns_with_the_gradients(every: int) -> None:
    """Turned rows and columns of all gradients turn every update but the first, which is Adam's; those of Adam they do not."""
    generator, grads = torch.Generator().manual_seed(1), random_grads(7)
    left, right = (torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator)).Q for _ in range(2))
    method = Soap(lr=1.0, every=every, weight_decay=0.0)
    plain, _ = soap_moves(method, grads)
    turned, _ = soap_moves(method, [left @ grad @ right.T for grad in grads])
    for step, (move, other) in enumerate(zip(plain, turned, strict=True)):
        back = left.T @ other @ right
        near = (back - move).norm() < 1e-4 * move.norm()  # the eps of 1e-8 beside roots of 0.01
        assert near == (step > 0)


def test_soap_of_diagonal_gradients_by_hand() -> None:
    # Their eigenvectors are the axes, so that updates are Adam's, whose squares begin with the second. beta1 = 0 and beta2 = 0.5:
    # directions sign(g), then g2 / |g2|, then g3 / sqrt(v / 0.75) with v = 0.5 (0.5 g2^2) + 0.5 g3^2; nothing off the diagonal.
    grads = [torch.diag(torch.tensor([a, b], dtype=torch.float64)) for a, b in ((4.0, 1.0), (2.0, -3.0), (1.0, 6.0))]
    moves, state = soap_moves(Soap(lr=0.1, beta1=0.0, beta2=0.5, weight_decay=0.0), grads)
    expected = [
        torch.tensor([1.0, 1.0]),
        torch.tensor([1.0, -1.0]),
        torch.tensor([1 / math.sqrt((0.25 * 4 + 0.5) / 0.75), 6 / math.sqrt((0.25 * 9 + 18) / 0.75)]),
    ]
    for move, diagonal in zip(moves, expected, strict=True):
        torch.testing.assert_close(move, 0.1 * torch.diag(diagonal.double()), rtol=1e-6, atol=1e-9)
    # L = G G^T: 0.5 (0.5 (0.5 (16, 1) + (4, 9)) + (1, 36))
    torch.testing.assert_close(state["left"], torch.diag(torch.tensor([3.5, 20.375], dtype=torch.float64)))
    torch.testing.assert_close(state["left_basis"].abs(), torch.eye(2, dtype=torch.float64))


def test_bases_of_soap_are_orthonormal_and_come_to_the_eigenvectors() -> None:
    _, few = soap_moves(Soap(every=100, weight_decay=0.0), random_grads(60))
    _, many = soap_moves(Soap(every=1, weight_decay=0.0), random_grads(60))
    off = {}
    for name, state in (("few", few), ("many", many)):
        for side in ("left", "right"):
            basis = state[f"{side}_basis"]
            torch.testing.assert_close(basis.T @ basis, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-9)
            there = basis.T @ state[side] @ basis
            off[name, side] = ((there - torch.diag(there.diag())).norm() / there.norm()).item()
    assert all(off["many", side] < 0.5 * off["few", side] for side in ("left", "right"))


def test_soap_leaves_embeddings_head_and_vectors_to_adamw() -> None:
    mine, theirs = weights(), weights()
    ours, peer = Soap(lr=0.01).build(mine, ROLES), AdamW(lr=0.01, beta1=0.95).build(theirs, ROLES)
    for step in range(4):
        for named, optimizer in ((mine, ours), (theirs, peer)):
            set_gradients(named, step)
            optimizer.step()
    same = [torch.equal(a, b) for a, b in zip(values(mine), values(theirs), strict=True)]
    assert same == [True, False, False, True]

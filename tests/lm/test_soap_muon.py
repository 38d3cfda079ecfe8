"""SOAP-Muon: beside a reference in numpy, turned gradients, and what it is without turning."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lm.optimizers import AdamW, Muon, SoapMuon
from lm.optimizers.soap_muon import renewed
from tests.lm.test_optimizers import ROLES, set_gradients, values, weights


def moves_of(method: SoapMuon | Muon, grads: list[Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """What each of these updates subtracts from a matrix of zeros, and the state after the last."""
    weight = nn.Parameter(torch.zeros_like(grads[0]))
    optimizer = method.build([("blocks.0.up.weight", weight)], ROLES)
    found = []
    for grad in grads:
        before, weight.grad = weight.detach().clone(), grad.clone()
        optimizer.step()
        found.append(before - weight.detach())
    return found, optimizer.state[weight]


def grads_of(shape: tuple[int, int], count: int) -> list[Tensor]:
    """Of rows and columns that differ in size by 30 and 10 times."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, -1.5, shape[0], dtype=torch.float64)[:, None] * torch.logspace(0, -1, shape[1]).double()
    return [torch.randn(shape, dtype=torch.float64, generator=generator) * scale for _ in range(count)]


def reference(grads: list[np.ndarray], every: int, nesterov: bool, lr: float, decay: float) -> list[np.ndarray]:
    """The weight after each update, from zeros: the records' script, written down again without torch."""
    m, n = grads[0].shape
    weight = np.zeros((m, n))
    momentum, square, left, right = np.zeros((m, n)), np.zeros((m, n)), np.zeros((m, m)), np.zeros((n, n))
    rows = columns = None
    found = []
    for step, grad in enumerate(grads, 1):
        momentum = 0.95 * momentum + 0.05 * grad
        update = 0.05 * grad + 0.95 * momentum if nesterov else momentum.copy()
        if rows is not None and columns is not None:
            turned = rows.T @ update @ columns
            square = 0.9 * square + 0.1 * turned**2
            size = np.linalg.norm(update)
            update = rows @ (turned / (np.sqrt(square) + 1e-8)) @ columns.T
            update = update * size / np.linalg.norm(update)
        x = update / np.linalg.norm(update)
        x = x if m <= n else x.T
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        x = x if m <= n else x.T
        weight = weight * (1 - lr * decay) - lr * 0.2 * np.sqrt(max(m, n)) * x
        left, right = 0.9 * left + 0.1 * grad @ grad.T, 0.9 * right + 0.1 * grad.T @ grad
        if rows is None or columns is None:
            rows, columns = np.linalg.eigh(left)[1][:, ::-1], np.linalg.eigh(right)[1][:, ::-1]
        elif step % every == 0:
            order = np.argsort(-np.diag(rows.T @ left @ rows))
            square, rows = square[order], np.linalg.qr(left @ rows[:, order])[0]
            order = np.argsort(-np.diag(columns.T @ right @ columns))
            square, columns = square[:, order], np.linalg.qr(right @ columns[:, order])[0]
        found.append(weight.copy())
    return found


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("shape", [(6, 6), (5, 6), (6, 5)])
def test_five_updates_are_those_of_numpy(shape: tuple[int, int], every: int, nesterov: bool) -> None:
    grads = grads_of(shape, 5)
    method = SoapMuon(lr=0.1, every=every, nesterov=nesterov, weight_decay=0.5)
    found, _ = moves_of(method, grads)
    wanted = reference([grad.numpy() for grad in grads], every, nesterov, 0.1, 0.5)
    for weight, one in zip(torch.stack(found).cumsum(0).neg(), wanted, strict=True):
        # products of Newton-Schulz are in fp32 on a CPU
        torch.testing.assert_close(weight, torch.from_numpy(one), rtol=1e-3, atol=1e-5)


def test_the_first_update_is_muon_s_and_the_others_are_not() -> None:
    grads = grads_of((6, 8), 3)
    mine, _ = moves_of(SoapMuon(lr=1.0, weight_decay=0.0), grads)
    theirs, _ = moves_of(Muon(lr=1.0, weight_decay=0.0), grads)
    near = [bool((a - b).norm() < 1e-3 * b.norm()) for a, b in zip(mine, theirs, strict=True)]
    assert near == [True, False, False]


@pytest.mark.parametrize("every", [1, 3])
def test_turned_gradients_turn_every_update(every: int) -> None:
    """Rows and columns of all gradients: division by entries alone would not turn with them."""
    generator, grads = torch.Generator().manual_seed(1), grads_of((6, 6), 7)
    left, right = (torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator)).Q for _ in range(2))
    method = SoapMuon(lr=1.0, every=every, weight_decay=0.0)
    plain, _ = moves_of(method, grads)
    turned, _ = moves_of(method, [left @ grad @ right.T for grad in grads])
    for move, other in zip(plain, turned, strict=True):
        assert (left.T @ other @ right - move).norm() < 1e-3 * move.norm()


def test_vectors_of_a_renewed_basis_are_in_order_and_say_where_they_were() -> None:
    matrix, basis = torch.diag(torch.tensor([1.0, 9.0, 4.0])), torch.eye(3)
    vectors, order = renewed(matrix, basis)
    assert order.tolist() == [1, 2, 0]
    torch.testing.assert_close(vectors.abs(), torch.eye(3)[:, order])


def test_squares_go_with_their_vectors() -> None:
    """The second gradient has its large axis where the first had its small one, so that vectors change places."""
    first, second = torch.diag(torch.tensor([3.0, 1.0])).double(), torch.diag(torch.tensor([0.1, 30.0])).double()
    _, state = moves_of(SoapMuon(momentum=0.0, beta2=0.5), [first, second])
    # of the second update, in axes that are e1, e2 before it and e2, e1 behind it: 0.5 (0.1^2, 30^2)
    torch.testing.assert_close(state["exp_avg_sq"], torch.diag(torch.tensor([450.0, 0.005])).double())
    torch.testing.assert_close(state["left_basis"].abs(), torch.eye(2).double().flip(0))
    torch.testing.assert_close(state["left"], torch.diag(torch.tensor([0.25 * 9 + 0.005, 0.25 + 450])).double())


def test_embeddings_head_and_vectors_are_left_to_adamw() -> None:
    mine, theirs = weights(), weights()
    ours, peer = SoapMuon(adamw_lr=0.01).build(mine, ROLES), AdamW(lr=0.01).build(theirs, ROLES)
    for step in range(4):
        for named, optimizer in ((mine, ours), (theirs, peer)):
            set_gradients(named, step)
            optimizer.step()
    same = [torch.equal(a, b) for a, b in zip(values(mine), values(theirs), strict=True)]
    assert same == [True, False, False, True]

"""Sharpness: the largest eigenvalue of the loss's Hessian at the weights of a run, Gilmer et al. 2021 (arXiv:2110.04369).

Gradient descent of rate r is stable while r x sharpness < 2; for Adam it is that of P^-1/2 H P^-1/2 with P = sqrt(v) + eps that
counts, and 38 in the place of 2 with a memory of 0.9 (Cohen et al. 2022, arXiv:2207.14484). Differs from the papers: products
with the Hessian are central differences of gradients, since kernels have no second derivative, and it is of one batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lm.training.batch import Batch, backward
from lm.training.parallel.base import Parallel

MOVE = 1e-3  # norm of a movement over that of the weights, for a difference of gradients in fp32


def largest_eigenvalue(product: Callable[[Tensor], Tensor], start: Tensor, iterations: int) -> float:
    """The largest eigenvalue of a symmetric map by so many iterations of Lanczos from a vector, each new one held orthogonal to
    all before; fewer where the map leads nowhere new."""
    basis, along, beside = [start / start.norm()], list[float](), list[float]()
    for step in range(min(iterations, start.numel())):
        image = product(basis[-1])
        along.append(float(image @ basis[-1]))
        for _ in range(2):  # once leaves what rounding has put there
            for one in basis:
                image = image - (image @ one) * one
        length = float(image.norm())
        if step + 1 == iterations or length <= 1e-6 * max(map(abs, along)):
            break
        beside.append(length)
        basis.append(image / length)
    beside = beside[: len(along) - 1]
    matrix = torch.diag(torch.tensor(along, dtype=torch.float64))
    sides = torch.tensor(beside, dtype=torch.float64)
    if beside:
        matrix = matrix + torch.diag(sides, 1) + torch.diag(sides, -1)
    return float(torch.linalg.eigvalsh(matrix)[-1])


def gradient(batch: Batch, positions: int, weights: list[Tensor]) -> Tensor:
    """The gradient of the batch's loss, in one dimension, those of the weights being left as none; 0 where one has none."""
    for weight in weights:
        weight.grad = None
    backward(batch, positions)
    found = torch.cat([torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in weights])
    for weight in weights:
        weight.grad = None
    return found


def sharpness(batch: Batch, positions: int, weights: list[Tensor], scales: Tensor | None, iterations: int) -> float:
    """The largest eigenvalue of D H D for D = diag(scales), or of H. The weights are in the end what they were, to the bit, and
    have no gradients. The first vector is drawn with seed 0."""
    kept = [weight.detach().clone() for weight in weights]
    sizes = [weight.numel() for weight in weights]
    size = float(torch.cat([weight.flatten() for weight in kept]).norm())

    def at(movement: Tensor, by: float) -> Tensor:
        with torch.no_grad():
            for weight, whole, part in zip(weights, kept, movement.split(sizes), strict=True):
                weight.copy_(whole).add_(part.view_as(whole), alpha=by)
        torch.clear_autocast_cache()
        return gradient(batch, positions, weights)

    def product(vector: Tensor) -> Tensor:
        moved = vector if scales is None else vector * scales
        by = MOVE * size / float(moved.norm())
        found = (at(moved, by) - at(moved, -by)) / (2 * by)
        return found if scales is None else found * scales

    start = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(0)).to(kept[0])
    try:
        return largest_eigenvalue(product, start, iterations)
    finally:
        with torch.no_grad():
            for weight, whole in zip(weights, kept, strict=True):
                weight.copy_(whole)
        torch.clear_autocast_cache()


def adam_scales(parallel: Parallel) -> Tensor | None:
    """P^-1/2 of the optimizer's state, for P = sqrt(exp_avg_sq corrected for having begun at 0) + eps; None before the first
    update, and where it keeps no such squares of some weight."""
    found = []
    for group in parallel.optimizer.param_groups:
        for weight in group["params"]:
            state = parallel.optimizer.state.get(weight, {})
            if "exp_avg_sq" not in state or "step" not in state or "beta2" not in group:
                return None
            square = state["exp_avg_sq"] / (1 - group["beta2"] ** int(state["step"]))
            found.append((square.sqrt() + group["eps"]).rsqrt().flatten())
    return torch.cat(found)


def sharpness_of(parallel: Parallel, batch: Batch, positions: int, iterations: int) -> dict[str, float]:
    """`sharpness` of the run where it is, and `preconditioned` where the optimizer is Adam and has made an update."""
    weights = [weight for group in parallel.optimizer.param_groups for weight in group["params"]]
    found = {"sharpness": sharpness(batch, positions, weights, None, iterations)}
    if (scales := adam_scales(parallel)) is not None:
        found["preconditioned"] = sharpness(batch, positions, weights, scales, iterations)
    return found

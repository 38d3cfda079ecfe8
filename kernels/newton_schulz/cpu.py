"""Newton-Schulz over many matrices: those of equal shape, tall ones transposed, go through one batched product."""

import torch
from torch import Tensor

from kernels.newton_schulz.reference import EPS, A, B, C


def newton_schulz(matrices: list[Tensor], steps: int) -> list[Tensor]:
    """What the reference gives for each matrix, up to the order of rounding."""
    results = list(matrices)
    by_shape: dict[tuple[int, int], list[int]] = {}
    for index, matrix in enumerate(matrices):
        by_shape.setdefault((min(matrix.shape), max(matrix.shape)), []).append(index)
    for indices in by_shape.values():
        wide = [matrices[i].T if matrices[i].shape[0] > matrices[i].shape[1] else matrices[i] for i in indices]
        for index, result in zip(indices, _iterate(torch.stack(wide), steps).unbind(), strict=True):
            results[index] = result.T if matrices[index].shape[0] > matrices[index].shape[1] else result
    return results


def _iterate(x: Tensor, steps: int) -> Tensor:
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x

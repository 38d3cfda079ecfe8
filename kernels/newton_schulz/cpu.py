"""Newton-Schulz over many matrices: those of equal shape, tall ones transposed, go through batched products."""

import torch
from torch import Tensor

from kernels.newton_schulz.reference import EPS, A, B, C

# Entries of a batch. Matrices of a small model are one batch a shape; those of 768 x 2048 are two, enough for a GPU, and 1.3
# billion weights are 200 batches, so that ranks can share them out and none is held whole in another copy.
BATCH = 2**22


def newton_schulz(matrices: list[Tensor], steps: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """What the reference gives for each matrix in this dtype, up to the order of rounding."""
    results = list(matrices)
    for indices in batches([tuple(matrix.shape) for matrix in matrices]):
        wide = [matrices[i].T if matrices[i].shape[0] > matrices[i].shape[1] else matrices[i] for i in indices]
        for index, result in zip(indices, _iterate(torch.stack(wide).float(), steps, dtype).unbind(), strict=True):
            results[index] = result.T if matrices[index].shape[0] > matrices[index].shape[1] else result
    return results


def batches(shapes: list[tuple[int, int]]) -> list[list[int]]:
    """Indices of equal shapes, up to a transpose, in their order: as many together as BATCH entries hold, one at least."""
    by_shape: dict[tuple[int, int], list[int]] = {}
    for index, shape in enumerate(shapes):
        by_shape.setdefault((min(shape), max(shape)), []).append(index)
    return [
        indices[start : start + most]
        for (low, high), indices in by_shape.items()
        for most in (max(1, BATCH // max(1, low * high)),)
        for start in range(0, len(indices), most)
    ]


def _iterate(x: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """The norm is taken in fp32 whatever the dtype: that of a large matrix has more terms than bf16 can count."""
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)).to(dtype)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x

"""Newton-Schulz over many matrices: those of equal shape, tall ones transposed, go through batched products."""

import torch
from torch import Tensor

from kernels.newton_schulz.reference import Coefficients, divisor, polynomials

# Entries of a batch. The matrices of a small model are one batch a shape; of 768 x 2048 two go together, of 2048 x 2048 one.
# The 84 matrices of gpu-124m are 25 batches, and the busiest of 8 ranks has 1.09 times its share of the work.
BATCH = 2**22
# On a GPU, where each batch is some 25 launches: those 25 batches took 41 ms on an H200, of which 4 ms were products. Here they
# are 6. The busiest of 8 ranks then has 1.8 times its share of those 4 ms, and one batch to launch instead of 4.
GPU_BATCH = 2**24


def newton_schulz(
    matrices: list[Tensor], steps: int, dtype: torch.dtype = torch.float32, coefficients: Coefficients = "jordan"
) -> list[Tensor]:
    """What the reference gives for each matrix in this dtype, up to the order of rounding."""
    results = list(matrices)
    for indices in batches([(matrix.shape[0], matrix.shape[1]) for matrix in matrices], matrices[0].is_cuda):
        wide = [matrices[i].T if matrices[i].shape[0] > matrices[i].shape[1] else matrices[i] for i in indices]
        found = _iterate(torch.stack(wide).float(), steps, dtype, coefficients)
        for index, result in zip(indices, found.unbind(), strict=True):
            results[index] = result.T if matrices[index].shape[0] > matrices[index].shape[1] else result
    return results


def batches(shapes: list[tuple[int, int]], on_gpu: bool = False) -> list[list[int]]:
    """Indices of equal shapes, up to a transpose, in their order: as many together as BATCH entries hold, on a GPU as GPU_BATCH
    do, one at least."""
    entries = GPU_BATCH if on_gpu else BATCH
    by_shape: dict[tuple[int, int], list[int]] = {}
    for index, shape in enumerate(shapes):
        by_shape.setdefault((min(shape), max(shape)), []).append(index)
    return [
        indices[start : start + most]
        for (low, high), indices in by_shape.items()
        for most in (max(1, entries // max(1, low * high)),)
        for start in range(0, len(indices), most)
    ]


def _iterate(x: Tensor, steps: int, dtype: torch.dtype, coefficients: Coefficients) -> Tensor:
    """The norm is taken in fp32 whatever the dtype: that of a large matrix has more terms than bf16 can count."""
    x = (x / divisor(x.norm(dim=(1, 2), keepdim=True), coefficients)).to(dtype)
    for a, b, c in polynomials(coefficients, steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x

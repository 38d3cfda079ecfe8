"""The orthogonalisation at the heart of Muon, for a list of matrices."""

import torch
from torch import Tensor

from kernels.newton_schulz import cpu
from kernels.newton_schulz.reference import Coefficients


def newton_schulz(matrices: list[Tensor], steps: int, coefficients: Coefficients = "jordan") -> list[Tensor]:
    """Each matrix with its singular values brought to about 1: in bf16 on a GPU, as Keller Jordan's Muon and Moonlight
    (arXiv:2502.16982) have it, and in fp32 on a CPU, where bf16 is emulated more often than not.

    The batched products of cpu.py are one launch a batch on a GPU, so both devices take them. What a matrix becomes depends on
    those of its batch at most (`batches`), never on how many batches one call is given.
    """
    return cpu.newton_schulz(matrices, steps, matmul_dtype(matrices[0]), coefficients) if matrices else []


def matmul_dtype(matrix: Tensor) -> torch.dtype:
    """Dtype in which such matrices are multiplied."""
    return torch.bfloat16 if matrix.is_cuda else torch.float32


def batches(shapes: list[tuple[int, int]], on_gpu: bool = False) -> list[list[int]]:
    """The indices of matrices of these shapes, in the batches that are multiplied together, there or on a CPU."""
    return cpu.batches(shapes, on_gpu)


def cost(shapes: list[tuple[int, int]]) -> int:
    """Multiplications and additions of a step over matrices of these shapes."""
    return sum(2 * min(shape) ** 2 * (2 * max(shape) + min(shape)) for shape in shapes)

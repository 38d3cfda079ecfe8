"""The orthogonalisation at the heart of Muon, for a list of matrices."""

from torch import Tensor

from kernels.newton_schulz import cpu


def newton_schulz(matrices: list[Tensor], steps: int) -> list[Tensor]:
    """Each matrix with its singular values brought to about 1, in fp32.

    The batched products of cpu.py are one launch a shape on a GPU, so both devices take them.
    """
    return cpu.newton_schulz([matrix.float() for matrix in matrices], steps)

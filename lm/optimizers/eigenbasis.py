"""Shampoo's eigenbasis, in which SOAP and SOAP-Muon divide: Vyas et al. 2024 (arXiv:2409.11321, algorithm 4)."""

import torch
from torch import Tensor


def eigenvectors(matrix: Tensor, basis: Tensor | None) -> Tensor:
    """Orthonormal columns: all eigenvectors of this symmetric matrix, that of the largest eigenvalue first, or those of `basis`
    brought nearer to them by a step of power iteration."""
    if basis is None:
        return torch.linalg.eigh(matrix).eigenvectors.flip(1)
    return torch.linalg.qr(matrix @ basis).Q


def rotated(matrix_OI: Tensor, left_OO: Tensor, right_II: Tensor) -> Tensor:
    """The matrix in the bases whose vectors are the columns of `left` and `right`."""
    return left_OO.T @ matrix_OI @ right_II

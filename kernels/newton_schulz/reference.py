"""The Newton-Schulz iteration of Muon, for one matrix at a time."""

from torch import Tensor

# Keller Jordan 2024, https://kellerjordan.github.io/posts/muon/: the steepest slope at zero that still maps (0, 1] into
# about (0.7, 1.2) after five steps.
A, B, C = 3.4445, -4.7750, 2.0315
EPS = 1e-7


def newton_schulz(matrix: Tensor, steps: int) -> Tensor:
    """U S' V^T of a matrix U S V^T, with the singular values S' in about (0.7, 1.2) rather than exactly 1.

    The zero matrix stays zero. Differs from the original: the dtype of the matrix is kept, where that casts to bf16.
    """
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=EPS)
    for _ in range(steps):
        gram = x @ x.T
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x

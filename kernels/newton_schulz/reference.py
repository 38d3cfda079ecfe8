"""The Newton-Schulz iteration of Muon, for one matrix at a time."""

from typing import Literal

from torch import Tensor

# Whose polynomials: a x + b x^3 + c x^5 of singular values, one a step.
Coefficients = Literal["jordan", "polar_express"]

# Keller Jordan 2024, https://kellerjordan.github.io/posts/muon/: the steepest slope at zero that still maps (0, 1] into
# about (0.7, 1.2) after five steps.
A, B, C = 3.4445, -4.7750, 2.0315
EPS = 1e-7
# Amsel et al. 2025, arXiv:2505.16932, algorithm 1: of each step the polynomial nearest to 1 over all that is left of
# [0.001, 1] by those before it. From the eighth on they are one.
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
# Theirs, too: singular values that rounding has put above 1 would grow, so that every step but the last one counts them so
# much smaller, and so is the norm that the matrix is divided by larger.
SAFETY = 1.01


def polynomials(coefficients: Coefficients, steps: int) -> list[tuple[float, float, float]]:
    """(a, b, c) of each of so many steps."""
    if coefficients == "jordan":
        return [(A, B, C)] * steps
    safe = [(a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in POLAR_EXPRESS[:-1]]
    return [*safe, *[POLAR_EXPRESS[-1]] * steps][:steps]


def divisor(norm: Tensor, coefficients: Coefficients) -> Tensor:
    """What a matrix of this Frobenius norm is divided by before the first step."""
    norm = norm.clamp(min=EPS)
    return norm if coefficients == "jordan" else norm * SAFETY


def newton_schulz(matrix: Tensor, steps: int, coefficients: Coefficients = "jordan") -> Tensor:
    """U S' V^T of a matrix U S V^T, with the singular values S' near 1: in about (0.7, 1.2) after five steps of jordan, and
    the nearer to 1 the more steps of polar_express there are.

    The zero matrix stays zero. Differs from the originals: the dtype of the matrix is kept, where they cast to bf16.
    """
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / divisor(x.norm(), coefficients)
    for a, b, c in polynomials(coefficients, steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x

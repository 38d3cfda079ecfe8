"""The next token of each row, drawn from its logits or the likeliest of them.

Letters: R rows, V vocabulary.
"""

from torch import Tensor

from kernels.pick import cpu


def pick(logits_RV: Tensor, temperature: float, points_R: Tensor) -> tuple[Tensor, Tensor]:
    """(ids_R, logps_R): where the points, fp64 in [0, 1), fall when a row's probabilities, softmax(logits / temperature), are
    laid end to end, lowest id first, and the log-probability of that token (nats, fp32). Temperature 0 takes the likeliest
    token, lowest id first, with its log-probability under softmax(logits).

    A row's result depends on its logits and point alone. Raises ValueError for shapes that do not fit.
    """
    if logits_RV.ndim != 2 or points_R.shape != logits_RV.shape[:1]:
        raise ValueError(f"logits must be R V and points R, not {tuple(logits_RV.shape)} and {tuple(points_R.shape)}")
    if logits_RV.is_cuda:
        from kernels.pick import triton

        return triton.pick(logits_RV, temperature, points_R)
    return cpu.pick(logits_RV, temperature, points_R)

"""The AdamW update of a list of tensors."""

from torch import Tensor

from kernels.adamw import cpu


def adamw_(
    weights: list[Tensor],
    grads: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    steps: list[int],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """Update weights, means and squares in place; steps[i] counts the updates of weights[i], this one included.

    The multi-tensor calls of cpu.py are also one launch a line on a GPU, so both devices take them.
    """
    if weights:
        cpu.adamw_(weights, grads, means, squares, steps, lr, beta1, beta2, eps, weight_decay)

"""AdamW over many tensors at once, in one pass over memory."""

import torch
from torch import Tensor


def adamw_(
    weights: list[Tensor],
    grads: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    steps: list[int],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """Update weights, means and squares as the reference does, up to the order of rounding."""
    # Filled on the device: copied there they would have the host wait. Most weights have the same count, and so its tensor.
    device = weights[0].device
    counted = {step: torch.full((), step, dtype=torch.float32, device=device) for step in set(steps)}
    counts = [counted[step] for step in steps]
    torch._fused_adamw_(
        weights,
        grads,
        means,
        squares,
        [],
        counts,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )

"""AdamW as written: Loshchilov & Hutter, arXiv:1711.05101, algorithm 2."""

import torch
from torch import Tensor


def adamw(
    weight: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """(weight, mean, square) after update number `step`, which counts from 1; all four tensors have one shape.

    mean and square are the moving averages of the gradient and of its square. Differs from the paper: the decay is
    multiplied by lr, as in torch.
    """
    mean = beta1 * mean + (1 - beta1) * grad
    square = beta2 * square + (1 - beta2) * grad**2
    unbiased_mean = mean / (1 - beta1**step)
    unbiased_square = square / (1 - beta2**step)
    weight = weight - lr * weight_decay * weight - lr * unbiased_mean / (torch.sqrt(unbiased_square) + eps)
    return weight, mean, square

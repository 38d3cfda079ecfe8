"""Caution of updates and of weight decay, entry by entry: what AdamW, Lion and the kinds of Muon can have beside their rule.

Cautious updates: Liang et al. 2024 (arXiv:2411.16085, algorithm 1). Cautious weight decay: Chen et al. 2025 (arXiv:2510.12402,
algorithm 1). Differs from the papers: both are of the weights as they were before the update, where the first decays after
it; with both on, an entry whose update caution has held back still decays.
"""

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kernels.adamw import adamw_
from lm.config import Config
from lm.optimizers.base import State, adam_directions_

Totals = Callable[[list[Tensor]], list[Tensor]]
# Share of a tensor's entries that agree, at least: the bound of the authors' code, with which no entry moves a thousand-fold
LEAST = 1e-3


class Cautious(Config):
    """The parameters of an optimizer that can be cautious; by default it is not."""

    cautious: bool = Field(
        False,
        description="entries whose update and gradient differ in sign rest, and the tensor's others move by as much more as "
        "they are fewer: arXiv:2411.16085",
    )
    cautious_decay: bool = Field(
        False, description="only entries that the update does not move away from 0 decay: arXiv:2510.12402"
    )
    scheduled_decay: bool = Field(
        False,
        description="weight_decay is multiplied by the schedule's factor, so that what decays in an update goes by its square: "
        "modded-nanogpt's record of 2025-11-10",
    )


def agreeing(updates: list[Tensor], grads: list[Tensor], totals: Totals) -> list[Tensor]:
    """Updates in which entries of another sign than the gradient's are 0, and the others are divided by their share of the
    tensor. totals: sums over whole tensors of those over the parts that are given."""
    masks = [(update * grad > 0).to(update.dtype) for update, grad in zip(updates, grads, strict=True)]
    counts = totals([torch.stack([mask.sum(), mask.new_tensor(mask.numel())]) for mask in masks])
    return [
        update * mask / (agree / entries).clamp(min=LEAST)
        for update, mask, (agree, entries) in zip(updates, masks, counts, strict=True)
    ]


def decay_(weights: list[Tensor], updates: list[Tensor], share: float, cautious: bool) -> None:
    """Take this share from each weight in place; cautious: of those alone that have the sign of their update, which is about to
    be subtracted, or whose product with it is 0."""
    if not cautious:
        torch._foreach_mul_(weights, 1 - share)
        return
    for weight, update in zip(weights, updates, strict=True):
        weight.mul_(1 - share * (update * weight >= 0))


def coefficient(group: dict[str, Any]) -> float:
    """Weight decay of this step, to be multiplied by its rate."""
    factor: float = group["lr"] / group["base_lr"] if group["scheduled_decay"] else 1.0
    return float(group["weight_decay"]) * factor


def adam_step_(
    weights: list[Tensor],
    grads: list[Tensor],
    state: State,
    group: dict[str, Any],
    totals: Totals,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """Update weights and state in place by AdamW, with the caution that the group asks for."""
    means, squares, steps = state["exp_avg"], state["exp_avg_sq"], [int(step) for step in state["step"]]
    lr, decay = group["lr"], coefficient(group)
    if not group["cautious"] and not group["cautious_decay"]:
        settings = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": decay}
        adamw_(weights, grads, means, squares, steps, **settings)
        return
    updates = adam_directions_(grads, means, squares, steps, beta1, beta2, eps)
    if group["cautious"]:
        updates = agreeing(updates, grads, totals)
    decay_(weights, updates, lr * decay, group["cautious_decay"])
    torch._foreach_add_(weights, updates, alpha=-lr)

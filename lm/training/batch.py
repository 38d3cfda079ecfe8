"""What a step learns from, and its gradients, made in as many parts as memory asks for."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Figures = dict[str, Tensor | float]


@dataclass(frozen=True)
class Batch:
    """`rows` sequences of up to `length` positions, `tokens` of which count in all.

    loss(rows) is the share that these rows have in the step's loss, with their shares of its figures: shares of disjoint rows
    add up to the whole. figures: of the whole, such as the mean reward.
    """

    rows: int
    length: int
    tokens: int
    loss: Callable[[slice], tuple[Tensor, Figures]]
    figures: Figures = field(default_factory=dict)


def backward(batch: Batch, positions: int) -> tuple[Tensor, Figures]:
    """(loss, figures) of the batch, its gradients added to those of the weights, at most `positions` positions at a time but
    never less than a row."""
    rows = max(1, positions // batch.length)
    loss, figures = torch.zeros(()), dict(batch.figures)
    for start in range(0, batch.rows, rows):
        share, more = batch.loss(slice(start, min(start + rows, batch.rows)))
        share.backward()
        loss = loss.to(share.device) + share.detach()
        for name, value in more.items():
            figures[name] = figures.get(name, 0.0) + value
    return loss, figures

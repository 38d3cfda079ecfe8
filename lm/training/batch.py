"""What a step learns from, and its gradients, made in as many parts as memory asks for."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lm.config import ConfigError

Figures = dict[str, Tensor | float]


@dataclass(frozen=True)
class Batch:
    """`rows` sequences of up to `length` positions, `tokens` of which count in all.

    loss(rows) is the share that these rows have in the step's loss, with their shares of its figures: shares of disjoint rows
    add up to the whole. figures: of the whole, such as the mean reward. after: called once the gradients are made, on every
    rank. content: all that the loss is of, token ids first, for the record of what a step saw.
    """

    rows: int
    length: int
    tokens: int
    loss: Callable[[slice], tuple[Tensor, Figures]]
    figures: Figures = field(default_factory=dict)
    after: Callable[[], None] = lambda: None
    content: tuple[Tensor, ...] = ()


def rows_at_once(batch: Batch, positions: int) -> int:
    """How many rows a backward pass takes that may hold so many positions: one at least."""
    return max(1, positions // batch.length)


def backward(
    batch: Batch, positions: int, rows: slice | None = None, before_last: Callable[[], None] | None = None
) -> tuple[Tensor, Figures]:
    """The shares that the rows, or all, have in the batch's loss and figures, their gradients added to those of the weights;
    at most `positions` positions at a time but never less than a row. before_last: called before autograd's last pass."""
    first, end = (rows.start, rows.stop) if rows else (0, batch.rows)
    at_once = rows_at_once(batch, positions)
    loss, figures = torch.zeros(()), dict[str, Tensor | float]()
    for start in range(first, end, at_once):
        share, more = batch.loss(slice(start, min(start + at_once, end)))
        if before_last and start + at_once >= end:
            before_last()
        share.backward()
        loss = loss.to(share.device) + share.detach()
        for name, value in more.items():
            figures[name] = figures.get(name, 0.0) + value
    return loss, figures


def cut(rows: int, parts: int, kind: str) -> list[slice]:
    """The rows in as many equal parts. Raises ConfigError, which calls the parts by their kind, where that cannot be."""
    if rows % parts:
        raise ConfigError(
            f"a step of {rows} sequences cannot be cut into {parts} equal {kind}: change their number or that of the sequences"
        )
    each = rows // parts
    return [slice(start, start + each) for start in range(0, rows, each)]

"""What a step learns from, and its gradients, made in as many parts as memory asks for."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from lm.config import ConfigError
from lm.model import Decoder

Metrics = dict[str, Tensor | float]


@dataclass(frozen=True)
class Batch:
    """`rows` sequences of up to `length` positions, `tokens` of which count in all.

    loss(rows) is the share that these rows have in the step's loss, with their shares of its metrics: shares of disjoint rows
    add up to the whole. metrics: of the whole, such as the mean reward.
    together: rows of one block, which is never cut: a pair of answers, or all answers to a problem. Of each the first row's
    number is a multiple of it, and so is `rows`.
    traces: called once the gradients are made, on every rank: more numbers of the step, in one dimension, which the loop reads
    together with its own. after: then gets them, in host memory as float64, on every rank.
    content: all that the loss is of, token ids first, in host memory, for the record of what a step saw.
    shapes: how many sizes, rows x length, the batches of the run have between them; 0: not known beforehand.
    """

    rows: int
    length: int
    tokens: int
    loss: Callable[[slice], tuple[Tensor, Metrics]]
    metrics: Metrics = field(default_factory=dict)
    traces: Callable[[], Tensor] = lambda: torch.empty(0)
    after: Callable[[Tensor], None] = lambda traces: None
    content: tuple[Tensor, ...] = ()
    together: int = 1
    shapes: int = 0


def with_auxiliary(batch: Batch, model: Decoder) -> Batch:
    """The batch with what the parts of the model add to its loss, as experts do that are to be visited alike; by rows.
    What is no mean over tokens is so of each part that the batch is cut into, not of the whole."""

    def loss(rows: slice) -> tuple[Tensor, Metrics]:
        share, metrics = batch.loss(rows)
        added = model.auxiliary_loss()
        if added is None:
            return share, metrics
        added = added * ((rows.stop - rows.start) / batch.rows)
        return share + added, {**metrics, "auxiliary_loss": added.detach()}

    return replace(batch, loss=loss)


def rows_at_once(batch: Batch, positions: int) -> int:
    """How many rows a backward pass takes at most that may hold so many positions: one block of them at least."""
    return max(1, positions // (batch.length * batch.together)) * batch.together


def equal_parts(rows: slice, at_once: int, together: int = 1) -> list[slice]:
    """The rows in as few parts as have at most `at_once` rows each, and in order. Parts differ by one block of `together` rows
    at most, so that compiled code meets one shape, or two where the rows do not divide, and none of a small rest."""
    blocks = (rows.stop - rows.start) // together
    number = -(-blocks // (at_once // together))
    edges = [rows.start + blocks * part // number * together for part in range(number + 1)]
    return [slice(start, end) for start, end in pairwise(edges)]


def backward(
    batch: Batch, positions: int, rows: slice | None = None, before_last: Callable[[], None] | None = None
) -> tuple[Tensor, Metrics]:
    """The shares that the rows, or all, have in the batch's loss and metrics, their gradients added to those of the weights;
    at most `positions` positions at a time, or the rows that stay together. before_last: called before autograd's last pass."""
    loss, metrics = None, dict[str, Tensor | float]()
    parts = equal_parts(rows or slice(0, batch.rows), rows_at_once(batch, positions), batch.together)
    for part in parts:
        share, more = batch.loss(part)
        if before_last and part is parts[-1]:
            before_last()
        share.backward()
        if loss is None:  # made where the share is: from the host they would be a copy that it waits for
            loss = torch.zeros_like(share.detach(), dtype=torch.promote_types(share.dtype, torch.float32))
        loss = loss + share.detach()
        for name, value in more.items():
            metrics[name] = metrics.get(name, 0.0) + value
    assert loss is not None
    return loss, metrics


@torch.no_grad()
def evaluate(batch: Batch, positions: int, rows: slice | None = None) -> Tensor:
    """The share that the rows, or all, have in the batch's loss, in as many passes as `backward` has, without gradients."""
    parts = equal_parts(rows or slice(0, batch.rows), rows_at_once(batch, positions), batch.together)
    return torch.stack([batch.loss(part)[0].detach().float() for part in parts]).sum()


def number_on(device: torch.device, number: Tensor | float) -> Tensor:
    """An fp32 scalar on the device, where the number is already if it is a tensor; made without a copy, since the host would
    wait for one."""
    if isinstance(number, Tensor):
        return number.detach().float()
    return torch.full((), number, dtype=torch.float32, device=device)


def split_batch(batch: Batch, parts: int, kind: str) -> list[slice]:
    """The batch's rows in as many equal parts. Raises ConfigError, which calls the parts by their kind, if there are none."""
    rows = batch.rows
    if rows % (parts * batch.together):
        blocks = "" if batch.together == 1 else f", {batch.together} of which stay together,"
        raise ConfigError(
            f"a step of {rows} sequences{blocks} cannot be cut into {parts} equal {kind}: change their number or that of the "
            "sequences"
        )
    each = rows // parts
    return [slice(start, start + each) for start in range(0, rows, each)]

"""Products of rows with one matrix of several each, as an operator of torch: to Dynamo, and to a forecast, one node, whose
shapes are the same however many rows each matrix has. lm/feed_forwards/experts.py sorts the tokens for it.

One product a matrix, in the order of the matrices: the same bits each time. The counts are read by the host.
Registered as kernels/attention/operator.py is, and for its reasons.
Letters: M rows, X matrices, O outputs, I inputs.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PRODUCTS, GRADIENTS = "tokenmill::grouped_products", "tokenmill::grouped_gradients"


def _pieces(counts: Tensor) -> list[slice]:
    """The rows of each matrix."""
    return [slice(start, end) for start, end in pairwise(accumulate(counts.tolist(), initial=0))]


def _products(rows: Tensor, counts: Tensor, weights: Sequence[Tensor], transposed: bool) -> Tensor:
    """rows_MI, counts_X, X of weight_OI -> y_MO; transposed: rows_MO -> y_MI, by the same matrices."""
    made, pieces = rows.new_empty(len(rows), weights[0].shape[1 if transposed else 0]), _pieces(counts)
    for piece, weight in zip(pieces, weights, strict=True):
        torch.mm(rows[piece], weight if transposed else weight.T, out=made[piece])
    made[pieces[-1].stop :] = 0
    return made


def _gradients(grad: Tensor, rows: Tensor, counts: Tensor) -> list[Tensor]:
    """The gradient of y_MO, rows_MI, counts_X -> that of each weight_OI: zeros where it has no row."""
    return [grad[piece].T @ rows[piece] for piece in _pieces(counts)]


def _define(name: str, function: Callable[..., object]) -> None:
    torch.library.define(name, torch.library.infer_schema(function, mutates_args=()), tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(name, "default", function)


_define(PRODUCTS, _products)
_define(GRADIENTS, _gradients)


@torch.library.register_fake(PRODUCTS)
def _shape(rows: Tensor, counts: Tensor, weights: Sequence[Tensor], transposed: bool) -> Tensor:
    return rows.new_empty(rows.shape[0], weights[0].shape[1 if transposed else 0])


@torch.library.register_fake(GRADIENTS)
def _shapes(grad: Tensor, rows: Tensor, counts: Tensor) -> list[Tensor]:
    return [rows.new_empty(grad.shape[1], rows.shape[1]) for _ in range(counts.shape[0])]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, counts, weights, transposed = inputs
    ctx.save_for_backward(rows, counts, *weights)
    ctx.transposed = transposed


@once_differentiable
def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    rows, counts, *weights = ctx.saved_tensors
    assert not ctx.transposed
    grad = grad.contiguous()
    of_rows = torch.ops.tokenmill.grouped_products.default(grad, counts, weights, True)
    wanted = ctx.needs_input_grad[2]
    of_weights = torch.ops.tokenmill.grouped_gradients.default(grad, rows, counts) if any(wanted) else []
    return of_rows, None, of_weights or [None] * len(weights), None


torch.library.register_autograd(PRODUCTS, _backward, setup_context=_keep)


def grouped_product(rows_MI: Tensor, counts_X: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """y_MO: the first counts_X[0] rows times the first weight_OI, transposed, those that follow times the second, and so on.
    Counts sum to M or less, rows behind them giving zeros, and are best on the CPU, for which a GPU would wait; all else is of
    one dtype. Differentiable once in rows and weights."""
    return torch.ops.tokenmill.grouped_products.default(rows_MI, counts_X, list(weights), False)

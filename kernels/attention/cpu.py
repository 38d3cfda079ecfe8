"""Causal attention a document at a time, in strips of queries that see the keys up to their own end and no more.

torch's fused CPU kernel (2.13) takes keys in blocks of 512 and skips whole blocks only, so that up to 512 tokens its causal
attention costs as much as full attention. A strip of STRIP queries is given the keys it may see, with a mask for the last
STRIP of them: by blocks, that is all the work there is. Forward and backward on one thread against that kernel on the same
document, FP32, best of 9: FIGURES
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

STRIP = 64

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attention(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, bounds: Tensor | None) -> Tensor:
    """What the reference gives, up to the order of rounding."""
    # heads repeated by hand: torch's enable_gqa leaves the fused CPU path (torch 2.13)
    heads = q_BTHE.shape[2]
    every = q_BTHE, repeated(k_BTKE, heads), repeated(v_BTKE, heads)
    if bounds is None:
        q, k, v = (x.transpose(1, 2) for x in every)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    return WithinDocuments.apply(*(x.flatten(0, 1) for x in every), bounds.tolist()).view_as(q_BTHE)


def repeated(x: Tensor, heads: int) -> Tensor:
    """x (..., K, E) with each head repeated to fill (..., heads, E): a view if K is 1 or `heads`, else a copy."""
    *outer, K, E = x.shape
    return x.unsqueeze(-2).expand(*outer, K, heads // K, E).flatten(-3, -2)


def groups(bounds: list[int]) -> Iterator[tuple[int, slice | Tensor]]:
    """(length, tokens) for each length of document: the tokens of all of that length, a slice where they are neighbours."""
    by_length: dict[int, list[int]] = {}
    for start, end in zip(bounds, bounds[1:]):
        by_length.setdefault(end - start, []).append(start)
    for length, starts in by_length.items():
        if starts[-1] - starts[0] == (len(starts) - 1) * length:
            yield length, slice(starts[0], starts[-1] + length)
        else:
            yield length, (torch.tensor(starts)[:, None] + torch.arange(length)).flatten()


def strips(length: int, mask: Tensor | None) -> Iterator[tuple[slice, slice, Tensor | None]]:
    """(queries, keys, mask) of each strip; the first is a square, so that it needs no mask but is_causal."""
    yield slice(0, STRIP), slice(0, STRIP), None
    for begin in range(STRIP, length, STRIP):
        assert mask is not None
        end = min(begin + STRIP, length)
        yield slice(begin, end), slice(0, end), mask[: end - begin, -STRIP - begin : mask.shape[1] - STRIP + end - begin]


def mask_of(bounds: list[int], like: Tensor) -> Tensor | None:
    """What the strips of the longest document cut their masks from: zeros, then a triangle. None: one strip is enough."""
    longest = max(end - start for start, end in zip(bounds, bounds[1:]))
    if longest <= STRIP:
        return None
    triangle = torch.full((STRIP, STRIP), -torch.inf, dtype=like.dtype).triu(1)
    return torch.cat((triangle.new_zeros(STRIP, longest), triangle), dim=1)


class WithinDocuments(torch.autograd.Function):
    """q_NHE, k_NHE, v_NHE, bounds -> mixed_NHE over the N tokens of all documents.

    The two halves of torch's kernel are called by name, since autograd of a loop over slices would write a gradient of the
    whole document for every strip.
    """

    @staticmethod
    def forward(ctx: Any, q_NHE: Tensor, k_NHE: Tensor, v_NHE: Tensor, bounds: list[int]) -> Tensor:
        mixed_NHE, logsumexps, mask = torch.empty_like(q_NHE), [], mask_of(bounds, q_NHE)
        for length, tokens in groups(bounds):
            q, k, v = (_documents(x, tokens, length) for x in (q_NHE, k_NHE, v_NHE))
            parts = []
            for queries, keys, hidden in strips(length, mask):
                seen = q[:, :, queries], k[:, :, keys], v[:, :, keys]
                part, logsumexp = _forward(*seen, 0.0, hidden is None, attn_mask=hidden)
                parts.append(part)
                logsumexps.append(logsumexp)
            mixed_NHE[tokens] = _tokens(torch.cat(parts, dim=2))
        ctx.save_for_backward(q_NHE, k_NHE, v_NHE, mixed_NHE, *logsumexps)
        ctx.bounds = bounds
        return mixed_NHE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NHE: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_NHE, k_NHE, v_NHE, mixed_NHE, *saved = ctx.saved_tensors
        given, logsumexps = (grad_NHE.contiguous(), q_NHE, k_NHE, v_NHE, mixed_NHE), iter(saved)
        dq_NHE, dk_NHE, dv_NHE = (torch.empty_like(mixed_NHE) for _ in range(3))
        mask = mask_of(ctx.bounds, q_NHE)
        for length, tokens in groups(ctx.bounds):
            grad, q, k, v, mixed = (_documents(x, tokens, length) for x in given)
            parts = []
            # from the last strip, whose keys are all there are; what the others add would be rounded in bfloat16 each time
            for (queries, keys, hidden), logsumexp in reversed([*zip(strips(length, mask), logsumexps)]):
                seen = q[:, :, queries], k[:, :, keys], v[:, :, keys], mixed[:, :, queries]
                part, *more = _backward(grad[:, :, queries], *seen, logsumexp, 0.0, hidden is None, attn_mask=hidden)
                parts.append(part)
                if len(parts) == 1:
                    dk, dv = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in more)
                else:
                    dk[:, :, keys] += more[0]
                    dv[:, :, keys] += more[1]
            dq_NHE[tokens] = _tokens(torch.cat(parts[::-1], dim=2))
            dk_NHE[tokens], dv_NHE[tokens] = _tokens(dk).to(dk_NHE.dtype), _tokens(dv).to(dv_NHE.dtype)
        return dq_NHE, dk_NHE, dv_NHE, None


def _documents(x_NHE: Tensor, tokens: slice | Tensor, length: int) -> Tensor:
    """The documents of these tokens: documents x heads x length x E."""
    return x_NHE[tokens].unflatten(0, (-1, length)).transpose(1, 2)


def _tokens(documents: Tensor) -> Tensor:
    """The inverse: tokens x heads x E."""
    return documents.transpose(1, 2).flatten(0, 1)

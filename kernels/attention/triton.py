"""Causal attention within documents with no score ever in memory: FlashAttention-2, arXiv:2205.14135 and arXiv:2307.08691.

A tile is a run of tokens whatever documents they belong to, so that short documents share one. Each token knows where its
document starts and ends; a tile reads from the first start to the last end that it needs and masks what lies between.
Differs from the papers: the gradients of key and value and that of query are two kernels, each program adding in a fixed
order into tiles of its own, so that a result is the same to the bit in every run, and query heads that share a key are added
in the loop. Tiles are square and small, not tuned on a device: compiled for sm_80 and sm_90 a program takes at most 75 KiB of
shared memory, up to heads of 256 in bf16 and of 128 in fp32.
Letters: N tokens, H query heads, K key/value heads, E head width; in a kernel Q queries and J keys of a tile.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG2_E = tl.constexpr(math.log2(math.e))


def attention(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, bounds: Tensor) -> Tensor:
    """What the reference gives, up to the order of rounding, for fp32, fp16 and bf16; sums and softmax in fp32."""
    tokens = q_BTHE.shape[0] * q_BTHE.shape[1]
    offsets = bounds.to(q_BTHE.device, torch.int32)
    # the size is said, else the device would be waited for
    starts_N = torch.repeat_interleave(offsets[:-1], offsets.diff(), output_size=tokens)
    ends_N = torch.repeat_interleave(offsets[1:], offsets.diff(), output_size=tokens)
    flat = (x.flatten(0, 1).contiguous() for x in (q_BTHE, k_BTKE, v_BTKE))
    return Flash.apply(*flat, starts_N, ends_N).view_as(q_BTHE)


class Flash(torch.autograd.Function):
    """q_NHE, k_NKE, v_NKE, starts_N, ends_N -> mixed_NHE; the log-sum-exp of each row of scores is kept for the backward."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
        tokens, heads, _ = q.shape
        mixed, logsumexp_HN = torch.empty_like(q), torch.empty(heads, tokens, dtype=torch.float32, device=q.device)
        options = _options(q, k)
        grid = (triton.cdiv(tokens, options["TILE"]), heads)
        _forward[grid](q, k, v, starts, mixed, logsumexp_HN, tokens, **options)
        ctx.save_for_backward(q, k, v, starts, ends, mixed, logsumexp_HN)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, starts, ends, mixed, logsumexp_HN = ctx.saved_tensors
        grad, dots_HN = grad.contiguous(), torch.empty_like(logsumexp_HN)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        options = _options(q, k)
        tiles = triton.cdiv(q.shape[0], options["TILE"])
        # this one leaves the dots that the next one reads
        _backward_queries[tiles, q.shape[1]](
            q, k, v, starts, mixed, grad, logsumexp_HN, dots_HN, dq, q.shape[0], **options
        )
        _backward_keys[tiles, k.shape[1]](
            q, k, v, starts, ends, grad, logsumexp_HN, dots_HN, dk, dv, q.shape[0], **options
        )
        return dq, dk, dv, None, None


def _options(q: Tensor, k: Tensor) -> dict[str, Any]:
    """What a kernel is compiled for."""
    _, heads, width = q.shape
    small = q.element_size() == 2 and width <= 128
    return {
        "SCALE": 1 / math.sqrt(width),
        "H": heads,
        "K": k.shape[1],
        "E": width,
        "WIDTH": max(16, triton.next_power_of_2(width)),  # a dot takes at least 16
        "TILE": 64 if small else 32,
        # fp32 stays fp32: tensor cores would round it to 10 bits
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        "num_warps": 4,
        "num_stages": 2,
    }


@triton.jit
def _places(tokens, head, N, HEADS: tl.constexpr, E: tl.constexpr, WIDTH: tl.constexpr):
    """(offsets, mask) of a head's rows of these tokens in a tensor N x HEADS x E."""
    width = tl.arange(0, WIDTH)
    offsets = (tokens.to(tl.int64)[:, None] * HEADS + head) * E + width[None, :]
    return offsets, (tokens[:, None] < N) & (width[None, :] < E)


@triton.jit
def _forward(
    q_ptr,
    k_ptr,
    v_ptr,
    starts_ptr,
    mixed_ptr,
    logsumexp_ptr,
    N,
    SCALE: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    E: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A program: the queries of one tile and head."""
    begin, head = tl.program_id(0) * TILE, tl.program_id(1)
    rows = begin + tl.arange(0, TILE)
    row_places, row_mask = _places(rows, head, N, H, E, WIDTH)
    q_QE = tl.load(q_ptr + row_places, mask=row_mask, other=0.0)
    starts_Q = tl.load(starts_ptr + rows, mask=rows < N, other=N)
    top_Q = tl.full([TILE], -float("inf"), tl.float32)
    total_Q = tl.zeros([TILE], tl.float32)
    mixed_QE = tl.zeros([TILE, WIDTH], tl.float32)
    for key in range(tl.load(starts_ptr + begin), tl.minimum(begin + TILE, N), TILE):
        columns = key + tl.arange(0, TILE)
        places, mask = _places(columns, head // (H // K), N, K, E, WIDTH)
        k_JE = tl.load(k_ptr + places, mask=mask, other=0.0)
        v_JE = tl.load(v_ptr + places, mask=mask, other=0.0)
        scores_QJ = tl.dot(q_QE, tl.trans(k_JE), input_precision=PRECISION) * (SCALE * LOG2_E)
        visible_QJ = (columns[None, :] >= starts_Q[:, None]) & (columns[None, :] <= rows[:, None])
        scores_QJ = tl.where(visible_QJ, scores_QJ, -float("inf"))
        higher_Q = tl.maximum(top_Q, tl.max(scores_QJ, 1))
        # a row that has seen no key yet: -inf - -inf is no number
        anchor_Q = tl.where(higher_Q == -float("inf"), 0.0, higher_Q)
        shares_QJ = tl.exp2(scores_QJ - anchor_Q[:, None])
        shrink_Q = tl.exp2(top_Q - anchor_Q)
        total_Q = total_Q * shrink_Q + tl.sum(shares_QJ, 1)
        mixed_QE = mixed_QE * shrink_Q[:, None]
        mixed_QE += tl.dot(shares_QJ.to(v_JE.dtype), v_JE, input_precision=PRECISION)
        top_Q = higher_Q
    total_Q = tl.where(rows < N, total_Q, 1.0)
    tl.store(mixed_ptr + row_places, mixed_QE / total_Q[:, None], mask=row_mask)
    tl.store(logsumexp_ptr + head * N + rows, top_Q + tl.log2(total_Q), mask=rows < N)


@triton.jit
def _slopes(q_QE, k_JE, v_JE, grad_QE, logsumexp_Q, dots_Q, visible_QJ, SCALE: tl.constexpr, PRECISION: tl.constexpr):
    """(shares_QJ, slopes_QJ): the softmax of a tile, and the gradient of its scores before they are scaled."""
    scores_QJ = tl.dot(q_QE, tl.trans(k_JE), input_precision=PRECISION) * (SCALE * LOG2_E)
    shares_QJ = tl.where(visible_QJ, tl.exp2(scores_QJ - logsumexp_Q[:, None]), 0.0)
    pulls_QJ = tl.dot(grad_QE, tl.trans(v_JE), input_precision=PRECISION)
    return shares_QJ, shares_QJ * (pulls_QJ - dots_Q[:, None]) * SCALE


@triton.jit
def _backward_queries(
    q_ptr,
    k_ptr,
    v_ptr,
    starts_ptr,
    mixed_ptr,
    grad_ptr,
    logsumexp_ptr,
    dots_ptr,
    dq_ptr,
    N,
    SCALE: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    E: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A program: dq of one tile and head, and each query's dot of gradient and output (D in arXiv:2307.08691)."""
    begin, head = tl.program_id(0) * TILE, tl.program_id(1)
    rows = begin + tl.arange(0, TILE)
    row_places, row_mask = _places(rows, head, N, H, E, WIDTH)
    q_QE = tl.load(q_ptr + row_places, mask=row_mask, other=0.0)
    grad_QE = tl.load(grad_ptr + row_places, mask=row_mask, other=0.0)
    mixed_QE = tl.load(mixed_ptr + row_places, mask=row_mask, other=0.0)
    dots_Q = tl.sum(grad_QE.to(tl.float32) * mixed_QE.to(tl.float32), 1)
    tl.store(dots_ptr + head * N + rows, dots_Q, mask=rows < N)
    logsumexp_Q = tl.load(logsumexp_ptr + head * N + rows, mask=rows < N, other=0.0)
    starts_Q = tl.load(starts_ptr + rows, mask=rows < N, other=N)
    dq_QE = tl.zeros([TILE, WIDTH], tl.float32)
    for key in range(tl.load(starts_ptr + begin), tl.minimum(begin + TILE, N), TILE):
        columns = key + tl.arange(0, TILE)
        places, mask = _places(columns, head // (H // K), N, K, E, WIDTH)
        k_JE = tl.load(k_ptr + places, mask=mask, other=0.0)
        v_JE = tl.load(v_ptr + places, mask=mask, other=0.0)
        visible_QJ = (columns[None, :] >= starts_Q[:, None]) & (columns[None, :] <= rows[:, None])
        _, slopes_QJ = _slopes(q_QE, k_JE, v_JE, grad_QE, logsumexp_Q, dots_Q, visible_QJ, SCALE, PRECISION)
        dq_QE += tl.dot(slopes_QJ.to(k_JE.dtype), k_JE, input_precision=PRECISION)
    tl.store(dq_ptr + row_places, dq_QE, mask=row_mask)


@triton.jit
def _backward_keys(
    q_ptr,
    k_ptr,
    v_ptr,
    starts_ptr,
    ends_ptr,
    grad_ptr,
    logsumexp_ptr,
    dots_ptr,
    dk_ptr,
    dv_ptr,
    N,
    SCALE: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    E: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A program: dk and dv of one tile and key/value head, summed over the query heads that read it."""
    begin, kv_head = tl.program_id(0) * TILE, tl.program_id(1)
    columns = begin + tl.arange(0, TILE)
    column_places, column_mask = _places(columns, kv_head, N, K, E, WIDTH)
    k_JE = tl.load(k_ptr + column_places, mask=column_mask, other=0.0)
    v_JE = tl.load(v_ptr + column_places, mask=column_mask, other=0.0)
    last = tl.load(ends_ptr + tl.minimum(begin + TILE, N) - 1)
    dk_JE = tl.zeros([TILE, WIDTH], tl.float32)
    dv_JE = tl.zeros([TILE, WIDTH], tl.float32)
    for head in range(kv_head * (H // K), (kv_head + 1) * (H // K)):
        for query in range(begin, last, TILE):
            rows = query + tl.arange(0, TILE)
            places, mask = _places(rows, head, N, H, E, WIDTH)
            q_QE = tl.load(q_ptr + places, mask=mask, other=0.0)
            grad_QE = tl.load(grad_ptr + places, mask=mask, other=0.0)
            logsumexp_Q = tl.load(logsumexp_ptr + head * N + rows, mask=rows < N, other=0.0)
            dots_Q = tl.load(dots_ptr + head * N + rows, mask=rows < N, other=0.0)
            starts_Q = tl.load(starts_ptr + rows, mask=rows < N, other=N)
            visible_QJ = (columns[None, :] >= starts_Q[:, None]) & (columns[None, :] <= rows[:, None])
            shares_QJ, slopes_QJ = _slopes(q_QE, k_JE, v_JE, grad_QE, logsumexp_Q, dots_Q, visible_QJ, SCALE, PRECISION)
            dv_JE += tl.dot(tl.trans(shares_QJ.to(grad_QE.dtype)), grad_QE, input_precision=PRECISION)
            dk_JE += tl.dot(tl.trans(slopes_QJ.to(q_QE.dtype)), q_QE, input_precision=PRECISION)
    tl.store(dk_ptr + column_places, dk_JE, mask=column_mask)
    tl.store(dv_ptr + column_places, dv_JE, mask=column_mask)

"""Causal attention within documents with no score ever in memory: FlashAttention-2, arXiv:2205.14135 and arXiv:2307.08691.

A tile is a run of tokens whatever documents they belong to, so that short documents share one. Each token knows where its
document starts and ends, so a tile of queries reads keys from the first start that it needs on, and one of keys reads queries
up to the last end. What all of a tile's queries see of keys goes without a mask, the rest with one.
Differs from the papers: the gradients of key and value and that of query are two kernels, each program adding in a fixed
order into tiles of its own, so that a result is the same to the bit in every run, and query heads that share a key are added
in the loop.
Letters: N tokens, H query heads, K key/value heads, E head width; in a kernel Q queries and J keys of a tile.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.tiles import Tile, tiles_of

LOG2_E = tl.constexpr(math.log2(math.e))


def forward(q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, starts_N: Tensor, ends_N: Tensor) -> tuple[Tensor, Tensor]:
    """(mixed_NHE, logsumexp_HN), as the reference up to the order of rounding, for contiguous fp32, fp16 and bf16; sums and
    softmax in fp32. The log-sum-exp is to the base of 2."""
    N, H, _ = q_NHE.shape
    mixed_NHE, logsumexp_HN = torch.empty_like(q_NHE), q_NHE.new_empty((H, N), dtype=torch.float32)
    tile, _, _ = _tiles(q_NHE)
    grid = triton.cdiv(N, tile.queries), H
    _attention_forward[grid](q_NHE, k_NKE, v_NKE, starts_N, mixed_NHE, logsumexp_HN, N, **options(q_NHE, k_NKE, tile))
    return mixed_NHE, logsumexp_HN


def backward(
    grad_NHE: Tensor,
    q_NHE: Tensor,
    k_NKE: Tensor,
    v_NKE: Tensor,
    starts_N: Tensor,
    ends_N: Tensor,
    mixed_NHE: Tensor,
    logsumexp_HN: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq_NHE, dk_NKE, dv_NKE)."""
    N, H, _ = q_NHE.shape
    dq_NHE, dk_NKE, dv_NKE = torch.empty_like(q_NHE), torch.empty_like(k_NKE), torch.empty_like(v_NKE)
    dots_HN = torch.empty_like(logsumexp_HN)
    _, tile, other = _tiles(q_NHE)
    # this one leaves the dots that the next one reads
    read = q_NHE, k_NKE, v_NKE, starts_N, mixed_NHE, grad_NHE, logsumexp_HN
    grid = triton.cdiv(N, tile.queries), H
    _attention_backward_queries[grid](*read, dots_HN, dq_NHE, N, **options(q_NHE, k_NKE, tile))
    there = q_NHE, k_NKE, v_NKE, starts_N, ends_N, grad_NHE, logsumexp_HN, dots_HN
    grid = triton.cdiv(N, other.keys), k_NKE.shape[1]
    _attention_backward_keys[grid](*there, dk_NKE, dv_NKE, N, **options(q_NHE, k_NKE, other))
    return dq_NHE, dk_NKE, dv_NKE


def _tiles(q: Tensor) -> tuple[Tile, Tile, Tile]:
    """Tiles of the three kernels; the interpreter takes what the least of GPUs gets."""
    capability = torch.cuda.get_device_capability(q.device) if q.is_cuda else (8, 0)
    return tiles_of(capability, q.shape[2], q.element_size())


def options(q: Tensor, k: Tensor, tile: Tile) -> dict[str, Any]:
    """What a kernel is compiled for."""
    _, heads, width = q.shape
    return {
        "SCALE": 1 / math.sqrt(width),
        "H": heads,
        "K": k.shape[1],
        "E": width,
        "WIDTH": max(16, triton.next_power_of_2(width)),  # a dot takes at least 16
        "QUERIES": tile.queries,
        "KEYS": tile.keys,
        # fp32 stays fp32: tensor cores would round it to 10 bits
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


@triton.jit
def _places(tokens, head, N, HEADS: tl.constexpr, E: tl.constexpr, WIDTH: tl.constexpr):
    """(offsets, mask) of a head's rows of these tokens in a tensor N x HEADS x E."""
    width = tl.arange(0, WIDTH)
    offsets = (tokens.to(tl.int64)[:, None] * HEADS + head) * E + width[None, :]
    return offsets, (tokens[:, None] < N) & (width[None, :] < E)


@triton.jit
def _load(ptr, tokens, head, N, HEADS: tl.constexpr, E: tl.constexpr, WIDTH: tl.constexpr, INSIDE: tl.constexpr):
    """A head's rows of these tokens, zeros where there are none; INSIDE: all are among the N."""
    offsets, mask = _places(tokens, head, N, HEADS, E, WIDTH)
    if INSIDE and E == WIDTH:
        x = tl.load(ptr + offsets)
    else:
        x = tl.load(ptr + offsets, mask=mask, other=0.0)
    return x


@triton.jit
def _keys_of(starts_ptr, begin, N, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """(first, tail, end): the queries of a tile see keys of [first, end), and all of them all of [first, tail): those before
    the first query, if the last query's document is its own. If it is not, it begins behind the first query."""
    end = tl.minimum(begin + QUERIES, N)
    first, latest = tl.load(starts_ptr + begin), tl.load(starts_ptr + end - 1)
    tail = tl.where(first == latest, first + (begin + 1 - first) // KEYS * KEYS, first)
    return first, tail, end


@triton.jit
def _attention_forward(
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
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A program: the queries of one tile and head."""
    begin, head = tl.program_id(0) * QUERIES, tl.program_id(1)
    rows = begin + tl.arange(0, QUERIES)
    q_QE = _load(q_ptr, rows, head, N, H, E, WIDTH, False)
    starts_Q = tl.load(starts_ptr + rows, mask=rows < N, other=N)
    top_Q = tl.full([QUERIES], -float("inf"), tl.float32)
    total_Q = tl.zeros([QUERIES], tl.float32)
    mixed_QE = tl.zeros([QUERIES, WIDTH], tl.float32)
    first, tail, end = _keys_of(starts_ptr, begin, N, QUERIES, KEYS)
    for masked in tl.static_range(2):
        for key in range(tail if masked else first, end if masked else tail, KEYS):
            columns = key + tl.arange(0, KEYS)
            k_JE = _load(k_ptr, columns, head // (H // K), N, K, E, WIDTH, not masked)
            v_JE = _load(v_ptr, columns, head // (H // K), N, K, E, WIDTH, not masked)
            scores_QJ = tl.dot(q_QE, tl.trans(k_JE), input_precision=PRECISION)
            if masked:
                visible_QJ = (columns[None, :] >= starts_Q[:, None]) & (columns[None, :] <= rows[:, None])
                scores_QJ = tl.where(visible_QJ, scores_QJ, -float("inf"))
            higher_Q = tl.maximum(top_Q, tl.max(scores_QJ, 1) * (SCALE * LOG2_E))
            # a row that has seen no key yet: -inf - -inf is no number
            anchor_Q = tl.where(higher_Q == -float("inf"), 0.0, higher_Q) if masked else higher_Q
            shares_QJ = tl.exp2(scores_QJ * (SCALE * LOG2_E) - anchor_Q[:, None])
            shrink_Q = tl.exp2(top_Q - anchor_Q)
            total_Q = total_Q * shrink_Q + tl.sum(shares_QJ, 1)
            mixed_QE = mixed_QE * shrink_Q[:, None]
            mixed_QE += tl.dot(shares_QJ.to(v_JE.dtype), v_JE, input_precision=PRECISION)
            top_Q = higher_Q
    total_Q = tl.where(rows < N, total_Q, 1.0)
    places, mask = _places(rows, head, N, H, E, WIDTH)
    tl.store(mixed_ptr + places, mixed_QE / total_Q[:, None], mask=mask)
    tl.store(logsumexp_ptr + head.to(tl.int64) * N + rows, top_Q + tl.log2(total_Q), mask=rows < N)


@triton.jit
def _attention_backward_queries(
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
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A program: dq of one tile and head, and each query's dot of gradient and output (D in arXiv:2307.08691)."""
    begin, head = tl.program_id(0) * QUERIES, tl.program_id(1)
    rows = begin + tl.arange(0, QUERIES)
    q_QE = _load(q_ptr, rows, head, N, H, E, WIDTH, False)
    grad_QE = _load(grad_ptr, rows, head, N, H, E, WIDTH, False)
    mixed_QE = _load(mixed_ptr, rows, head, N, H, E, WIDTH, False)
    dots_Q = tl.sum(grad_QE.to(tl.float32) * mixed_QE.to(tl.float32), 1)
    numbers = head.to(tl.int64) * N + rows
    tl.store(dots_ptr + numbers, dots_Q, mask=rows < N)
    logsumexp_Q = tl.load(logsumexp_ptr + numbers, mask=rows < N, other=0.0)
    starts_Q = tl.load(starts_ptr + rows, mask=rows < N, other=N)
    dq_QE = tl.zeros([QUERIES, WIDTH], tl.float32)
    first, tail, end = _keys_of(starts_ptr, begin, N, QUERIES, KEYS)
    for masked in tl.static_range(2):
        for key in range(tail if masked else first, end if masked else tail, KEYS):
            columns = key + tl.arange(0, KEYS)
            k_JE = _load(k_ptr, columns, head // (H // K), N, K, E, WIDTH, not masked)
            v_JE = _load(v_ptr, columns, head // (H // K), N, K, E, WIDTH, not masked)
            scores_QJ = tl.dot(q_QE, tl.trans(k_JE), input_precision=PRECISION) * (SCALE * LOG2_E)
            shares_QJ = tl.exp2(scores_QJ - logsumexp_Q[:, None])
            if masked:
                visible_QJ = (columns[None, :] >= starts_Q[:, None]) & (columns[None, :] <= rows[:, None])
                shares_QJ = tl.where(visible_QJ, shares_QJ, 0.0)
            pulls_QJ = tl.dot(grad_QE, tl.trans(v_JE), input_precision=PRECISION)
            slopes_QJ = shares_QJ * (pulls_QJ - dots_Q[:, None])
            dq_QE += tl.dot(slopes_QJ.to(k_JE.dtype), k_JE, input_precision=PRECISION)
    places, mask = _places(rows, head, N, H, E, WIDTH)
    tl.store(dq_ptr + places, dq_QE * SCALE, mask=mask)


@triton.jit
def _attention_backward_keys(
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
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A program: dk and dv of one tile and key/value head, summed over the query heads that read it.

    Scores stand as J x Q here, so that both sums have them on the left, where a tensor core takes them from registers.
    """
    begin, kv_head = tl.program_id(0) * KEYS, tl.program_id(1)
    columns = begin + tl.arange(0, KEYS)
    k_JE = _load(k_ptr, columns, kv_head, N, K, E, WIDTH, False)
    v_JE = _load(v_ptr, columns, kv_head, N, K, E, WIDTH, False)
    # all keys are seen by the queries of [whole, tail): behind the last key, and in the document of the first
    last = tl.load(ends_ptr + tl.minimum(begin + KEYS, N) - 1)
    whole = begin + (KEYS + QUERIES - 2) // QUERIES * QUERIES
    tail = whole + tl.maximum(tl.load(ends_ptr + begin) - whole, 0) // QUERIES * QUERIES
    dk_JE = tl.zeros([KEYS, WIDTH], tl.float32)
    dv_JE = tl.zeros([KEYS, WIDTH], tl.float32)
    for head in range(kv_head * (H // K), (kv_head + 1) * (H // K)):
        for part in tl.static_range(3):
            lower = begin if part == 0 else (whole if part == 1 else tail)
            upper = tl.minimum(whole, last) if part == 0 else (tail if part == 1 else last)
            for query in range(lower, upper, QUERIES):
                rows = query + tl.arange(0, QUERIES)
                q_QE = _load(q_ptr, rows, head, N, H, E, WIDTH, part == 1)
                grad_QE = _load(grad_ptr, rows, head, N, H, E, WIDTH, part == 1)
                numbers = tl.cast(head, tl.int64) * N + rows
                logsumexp_Q = tl.load(logsumexp_ptr + numbers, mask=rows < N, other=0.0)
                dots_Q = tl.load(dots_ptr + numbers, mask=rows < N, other=0.0)
                scores_JQ = tl.dot(k_JE, tl.trans(q_QE), input_precision=PRECISION) * (SCALE * LOG2_E)
                shares_JQ = tl.exp2(scores_JQ - logsumexp_Q[None, :])
                if part != 1:
                    starts_Q = tl.load(starts_ptr + rows, mask=rows < N, other=N)
                    visible_JQ = (columns[:, None] >= starts_Q[None, :]) & (columns[:, None] <= rows[None, :])
                    shares_JQ = tl.where(visible_JQ, shares_JQ, 0.0)
                dv_JE += tl.dot(shares_JQ.to(grad_QE.dtype), grad_QE, input_precision=PRECISION)
                pulls_JQ = tl.dot(v_JE, tl.trans(grad_QE), input_precision=PRECISION)
                slopes_JQ = shares_JQ * (pulls_JQ - dots_Q[None, :])
                dk_JE += tl.dot(slopes_JQ.to(q_QE.dtype), q_QE, input_precision=PRECISION)
    places, mask = _places(columns, kv_head, N, K, E, WIDTH)
    tl.store(dk_ptr + places, dk_JE * SCALE, mask=mask)
    tl.store(dv_ptr + places, dv_JE, mask=mask)

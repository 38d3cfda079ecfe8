"""Decoding's attention on a GPU: a row's filled slots are read once, by the query heads that share them, and no others.

The softmax of a tile of slots is joined to that of the tiles before it, as in FlashAttention-2 (arXiv:2307.08691). The new
token is the first of them, out of registers, so that a sum is never empty and the slot just written is not read. Differs from
Flash-Decoding, which cuts a row into pieces for several programs: a program here has a row and a key/value head, and 128 rows
already fill the 132 multiprocessors of an H100. So a row's result depends on that row alone, to the bit, whatever the rows
beside it and the slots there are.
Letters: B rows, H query heads, K key/value heads, G = H / K, C slots, E head width; in a kernel J slots of a tile.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = tl.constexpr(math.log2(math.e))
# Slots of a tile: 16 KiB of keys and values of 64 numbers in bf16, two of which are on their way at once. Compiled for sm_90 a
# program takes 36 KiB of shared memory, 71 for heads of 128, and 63 to 84 registers a thread, none of them spilled.
TILE = 64


def decode_attention(
    q_BHE: Tensor, k_BKE: Tensor, v_BKE: Tensor, keys_BKCE: Tensor, values_BKCE: Tensor, lengths_B: Tensor
) -> Tensor:
    """What the reference gives, up to the order of rounding, for fp32, fp16 and bf16; sums and softmax in fp32."""
    B, H, E = q_BHE.shape
    _, K, C, _ = keys_BKCE.shape
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_BHE, k_BKE, v_BKE))
    mixed_BHE = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    _attend[B, K](
        q,
        k,
        v,
        keys_BKCE,
        values_BKCE,
        lengths_B,
        mixed_BHE,
        C,
        *(stride for x in (q, k, v) for stride in x.stride()[:2]),
        SCALE=1 / math.sqrt(E),
        G=H // K,
        E=E,
        GROUP=max(16, triton.next_power_of_2(H // K)),  # a dot takes at least 16
        WIDTH=max(16, triton.next_power_of_2(E)),
        TILE=TILE if keys_BKCE.element_size() == 2 else TILE // 2,
        # fp32 stays fp32: tensor cores would round it to 10 bits
        PRECISION="ieee" if keys_BKCE.dtype == torch.float32 else "tf32",
        num_warps=4,
        num_stages=3,
    )
    return mixed_BHE


@triton.jit
def _attend(
    q_ptr,
    k_ptr,
    v_ptr,
    keys_ptr,
    values_ptr,
    lengths_ptr,
    mixed_ptr,
    C,
    q_B,
    q_H,
    k_B,
    k_K,
    v_B,
    v_K,
    SCALE: tl.constexpr,
    G: tl.constexpr,
    E: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A program: a row and a key/value head with its G query heads."""
    row, kv_head, kv_heads = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    length = tl.load(lengths_ptr + row).to(tl.int32)
    kept = keys_ptr.dtype.element_ty
    width, group = tl.arange(0, WIDTH), tl.arange(0, GROUP)
    inside = width < E
    heads = kv_head * G + group
    inside_GE = (group[:, None] < G) & inside[None, :]
    q_GE = tl.load(q_ptr + row * q_B + heads[:, None] * q_H + width[None, :], mask=inside_GE, other=0.0).to(kept)
    k_E = tl.load(k_ptr + row * k_B + kv_head * k_K + width, mask=inside, other=0.0).to(kept)
    v_E = tl.load(v_ptr + row * v_B + kv_head * v_K + width, mask=inside, other=0.0).to(kept)
    first = (row * kv_heads + kv_head) * C
    tl.store(keys_ptr + (first + length) * E + width, k_E, mask=inside)
    tl.store(values_ptr + (first + length) * E + width, v_E, mask=inside)
    top_G = tl.sum(q_GE.to(tl.float32) * k_E.to(tl.float32)[None, :], 1) * (SCALE * LOG2_E)
    total_G = tl.full([GROUP], 1.0, tl.float32)
    mixed_GE = tl.zeros([GROUP, WIDTH], tl.float32) + v_E.to(tl.float32)[None, :]
    for begin in range(0, length, TILE):
        slots = begin + tl.arange(0, TILE)
        places = (first + slots)[:, None] * E + width[None, :]
        seen = (slots[:, None] < length) & inside[None, :]
        k_JE = tl.load(keys_ptr + places, mask=seen, other=0.0)
        v_JE = tl.load(values_ptr + places, mask=seen, other=0.0)
        scores_GJ = tl.dot(q_GE, tl.trans(k_JE), input_precision=PRECISION) * (SCALE * LOG2_E)
        scores_GJ = tl.where(slots[None, :] < length, scores_GJ, -float("inf"))
        higher_G = tl.maximum(top_G, tl.max(scores_GJ, 1))
        shares_GJ, shrink_G = tl.exp2(scores_GJ - higher_G[:, None]), tl.exp2(top_G - higher_G)
        total_G = total_G * shrink_G + tl.sum(shares_GJ, 1)
        mixed_GE = mixed_GE * shrink_G[:, None]
        mixed_GE += tl.dot(shares_GJ.to(kept), v_JE, input_precision=PRECISION)
        top_G = higher_G
    places = (row * kv_heads * G + heads)[:, None] * E + width[None, :]
    tl.store(mixed_ptr + places, mixed_GE / total_G[:, None], mask=inside_GE)

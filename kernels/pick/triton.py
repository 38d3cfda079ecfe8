"""Drawing a token on a GPU: a program reads a row of logits three times, of which the second and third are in its cache.

torch's cumsum of floats has no deterministic order on CUDA (2.13) and raises in the deterministic mode of the stages; and its
formula holds five tensors R x V in fp32 and fp64.
Letters: R rows, V vocabulary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Entries of a tile: 16 a thread of 8 warps
TILE = 4096


def pick(logits_RV: Tensor, temperature: float, points_R: Tensor) -> tuple[Tensor, Tensor]:
    """What the reference gives, but where a point lies within a rounding of fp64 of a token's end."""
    R, V = logits_RV.shape
    logits_RV = logits_RV.contiguous()
    ids_R = torch.empty(R, dtype=torch.int64, device=logits_RV.device)
    logps_R = torch.empty(R, dtype=torch.float32, device=logits_RV.device)
    tile = min(TILE, max(16, triton.next_power_of_2(V)))
    _pick[(R,)](
        logits_RV,
        points_R,
        ids_R,
        logps_R,
        V,
        temperature if temperature > 0 else 1.0,
        DRAWN=temperature > 0,
        TILE=tile,
        num_warps=8 if tile == TILE else 4,
    )
    return ids_R, logps_R


@triton.jit
def _weights(logits_ptr, row, begin, V, temperature, top, TILE: tl.constexpr):
    """exp(x - top) of a tile in fp64; the exponential itself in fp32, as the reference's."""
    places = begin + tl.arange(0, TILE)
    x = tl.load(logits_ptr + row * V + places, mask=places < V, other=-float("inf")).to(tl.float32) / temperature
    return places, tl.exp(x - top).to(tl.float64)


@triton.jit
def _pick(logits_ptr, points_ptr, ids_ptr, logps_ptr, V, temperature, DRAWN: tl.constexpr, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    top, found = tl.full((), -float("inf"), tl.float32), tl.full((), 0, tl.int32)
    for begin in range(0, V, TILE):
        places = begin + tl.arange(0, TILE)
        x = tl.load(logits_ptr + row * V + places, mask=places < V, other=-float("inf")).to(tl.float32) / temperature
        highest = tl.max(x, 0)
        first = tl.min(tl.where(x == highest, places, V), 0)
        found = tl.where(highest > top, first, found)
        top = tl.maximum(top, highest)
    total = tl.full((), 0.0, tl.float64)
    for begin in range(0, V, TILE):
        places, weights = _weights(logits_ptr, row, begin, V, temperature, top, TILE)
        total += tl.sum(weights, 0)
    if DRAWN:
        target = tl.load(points_ptr + row) * total
        before = tl.full((), 0.0, tl.float64)
        found, last = tl.full((), 0, tl.int32) + V, tl.full((), 0, tl.int32)
        for begin in range(0, V, TILE):
            places, weights = _weights(logits_ptr, row, begin, V, temperature, top, TILE)
            ends = before + tl.cumsum(weights, 0)
            # an end may round below the one before it; a token of no weight is never taken
            found = tl.minimum(found, tl.min(tl.where((ends > target) & (weights > 0), places, V), 0))
            last = tl.maximum(last, tl.max(tl.where(weights > 0, places, 0), 0))
            before += tl.sum(weights, 0)
        found = tl.where(found < V, found, last)  # a product that rounds up falls behind all of them
    x = tl.load(logits_ptr + row * V + found).to(tl.float32) / temperature
    tl.store(ids_ptr + row, found.to(tl.int64))
    tl.store(logps_ptr + row, x - top - tl.log(total.to(tl.float32)))

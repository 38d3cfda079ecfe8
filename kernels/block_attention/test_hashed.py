"""Attention within buckets: the formula a token at a time, its gradients, buckets by hand, and tiles that are left out."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.block_attention.hashed import by_bucket, hashed_attention, overlapping_tiles

WIDE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


@st.composite
def hashed_cases(draw: st.DrawFn) -> tuple[list[Tensor], Tensor, list[Tensor], int]:
    """(q, k and v; starts_BT; buckets of queries and of keys; tokens of a tile)."""
    T, block, K, group, most = (draw(st.integers(1, most)) for most in (14, 6, 2, 2, 4))
    qkv = [numbers(2, T, n, 4, seed=draw(st.integers(0, 99))) for n in (K * group, K, K)]
    seeds = (torch.Generator().manual_seed(draw(st.integers(0, 99))) for _ in range(3))
    begins = torch.rand(2, T, generator=next(seeds)) < 0.2
    begins[:, 0] = True
    starts_BT = torch.where(begins, torch.arange(T), 0).cummax(1).values.int()
    return qkv, starts_BT, [torch.randint(0, most, (2, T, n), generator=next(seeds)) for n in (K * group, K)], block


def looked_up(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, of_q: Tensor, of_k: Tensor) -> Tensor:
    """mixed_BTHE a token at a time."""
    rows = []
    for b, t, h in product(*map(range, q.shape[:3])):
        own = h // (q.shape[2] // k.shape[2])
        seen = [s for s in range(int(starts[b, t]), t + 1) if of_k[b, s, own] == of_q[b, t, h]]
        shares = (k[b, seen, own] @ q[b, t, h] / math.sqrt(q.shape[3])).softmax(0)
        rows.append(shares @ v[b, seen, own] if seen else 0.0 * q[b, t, h])
    return torch.stack(rows).view_as(q)


@settings(deadline=None, max_examples=60)
@given(hashed_cases())
def test_within_buckets_it_and_its_gradients_are_the_formulas(
    case: tuple[list[Tensor], Tensor, list[Tensor], int],
) -> None:
    qkv, starts_BT, buckets, block = case
    results = []
    of_q, of_k = buckets
    for slow in (False, True):
        own = q, k, v = tuple(x.clone().requires_grad_() for x in qkv)
        given_ = q, k, v, starts_BT, of_q, of_k
        mixed = looked_up(*given_) if slow else hashed_attention(*given_, block)
        grads = torch.autograd.grad((mixed * numbers(*mixed.shape, seed=5)).sum(), own, allow_unused=True)
        results.append(
            [mixed, *(torch.zeros_like(x) if grad is None else grad for x, grad in zip(own, grads, strict=True))]
        )
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, **WIDE)


def test_equal_buckets_by_hand() -> None:
    """Keys all alike, so that a query has the mean of the values that it sees: 1, 2, 4, 8 and 16, in buckets 0, 1, 0, 1, 1."""
    q = k = torch.zeros(1, 5, 1, 2).double()
    v = torch.tensor([1.0, 2, 4, 8, 16]).double().view(1, 5, 1, 1).expand(1, 5, 1, 2)
    of_k = torch.tensor([0, 1, 0, 1, 1]).view(1, 5, 1)
    of_q = torch.tensor([1, 1, 0, 0, 1]).view(1, 5, 1)
    for block in (1, 2, 64):
        found = hashed_attention(q, k, v, torch.zeros(1, 5), of_q, of_k, block)[0, :, 0, 0]
        torch.testing.assert_close(found, torch.tensor([0.0, 2.0, 2.5, 2.5, 26 / 3]).double())


def test_tiles_whose_buckets_do_not_meet_are_left_out() -> None:
    """Where 16 tokens fall into 4 buckets in turn, tiles of 4 are a bucket each: 4 pairs of tiles of 16; of one bucket all
    10 that are causal."""
    starts, buckets = torch.zeros(1, 16), torch.arange(16).view(1, 16, 1) % 4
    for of, most, pairs in ((buckets, 4, 4), (buckets * 0, 1, 10)):
        tiles_ = by_bucket(starts, of, most, 4)
        assert int(overlapping_tiles(tiles_, tiles_).sum()) == pairs
    q = torch.ones(1, 16, 1, 2)
    with pytest.raises(ValueError, match="buckets must be B T H and B T K"):
        hashed_attention(q, q, q, starts, buckets[:, :3], buckets, 4)

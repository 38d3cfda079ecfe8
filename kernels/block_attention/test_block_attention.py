"""Attention over kept blocks: the formula a token at a time, its gradients, work that falls, and refusals."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.attention.reference import attention as full_attention
from kernels.block_attention import block_attention, reference, tiles
from kernels.block_attention.blocks import blocks_of, kept_tiles

WIDE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def chosen(*shape: int, share: float, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Tensor], Tensor, Tensor, int]:
    """(q, k and v; starts_BT; kept; tokens of a block) in rows of documents."""
    T, block, K, group = (draw(st.integers(1, most)) for most in (14, 6, 2, 2))
    heads, blocks, B = K * group, -(-T // block), 2
    qkv = [numbers(B, T, n, 4, seed=draw(st.integers(0, 99))) for n in (heads, K, K)]
    rows = []
    for _ in range(B):
        begins = torch.tensor([0, *draw(st.lists(st.integers(0, T - 1), max_size=3))])
        own = torch.arange(T)
        rows.append(torch.where(torch.isin(own, begins), own, 0).cummax(0).values)
    share = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    shape = (heads, blocks, blocks) if draw(st.booleans()) else (B, heads, T, blocks)
    return qkv, torch.stack(rows).int(), chosen(*shape, share=share, seed=draw(st.integers(0, 99))), block


@settings(deadline=None, max_examples=60)
@given(cases(), st.sampled_from([1, tiles.SCORES]))
def test_it_and_its_gradients_are_the_formulas(case: tuple[list[Tensor], Tensor, Tensor, int], scores: int) -> None:
    """Whatever is kept, in batches of one tile and of all."""
    qkv, starts_BT, kept, block = case
    results = []
    before, tiles.SCORES = tiles.SCORES, scores
    try:
        for function in (block_attention, reference.block_attention):
            own = q, k, v = tuple(x.clone().requires_grad_() for x in qkv)
            mixed = function(q, k, v, starts_BT, kept, block)
            (mixed * numbers(*mixed.shape, seed=5)).sum().backward() if mixed.requires_grad else None
            results.append([mixed.detach(), *(torch.zeros_like(x) if x.grad is None else x.grad for x in own)])
    finally:
        tiles.SCORES = before
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, **WIDE)


@pytest.mark.parametrize("block", [1, 4, 5, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_with_all_blocks_it_is_full_attention(block: int, dtype: torch.dtype) -> None:
    bounds = torch.tensor([0, 3, 17, 18, 20, 40])
    starts_BT = torch.tensor([[0] * 3 + [3] * 14 + [17] + [18] * 2, [0] * 20])
    q, k, v = (numbers(2, 20, heads, 8, seed=heads).to(dtype) for heads in (4, 2, 2))
    blocks = -(-20 // block)
    found = block_attention(q, k, v, starts_BT, torch.ones(4, blocks, blocks, dtype=torch.bool), block)
    wanted = full_attention(q.double(), k.double(), v.double(), bounds)
    close = WIDE if dtype == torch.float64 else {"rtol": 2e-2, "atol": 2e-2}
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, **close)


def test_blocks_by_hand() -> None:
    """Rows of 7 tokens in blocks of 3: documents of 2 and 5, and one of 7."""
    found, numbers_BX = blocks_of(torch.tensor([[0, 0, 2, 2, 2, 2, 2], [0] * 7]), 3)
    assert found.tokens_RXb.tolist() == [[[0, 1, -1], [2, 3, 4], [5, 6, -1]], [[0, 1, 2], [3, 4, 5], [6, -1, -1]]]
    assert found.groups_RXb.tolist() == [[[0, 0, -1], [2, 2, 2], [2, 2, -1]], [[0, 0, 0], [0, 0, 0], [0, -1, -1]]]
    assert numbers_BX.tolist() == [[0, 0, 1], [0, 1, 2]]
    kept = kept_tiles(torch.ones(1, 3, 3, dtype=torch.bool), found, numbers_BX)
    assert kept.int().tolist() == [[[1, 0, 0], [0, 1, 0], [0, 1, 1]], [[1, 0, 0], [1, 1, 0], [1, 1, 1]]]


def test_products_fall_with_what_is_kept() -> None:
    """A tile that is not kept is in no product: as many pairs of tiles as are kept, and no more."""
    counted = []
    for share in (1.0, 0.25):
        kept_PXY = chosen(4, 16, 16, share=share, seed=1).tril()
        pairs = [(len(own), theirs.shape) for own, theirs in tiles.batches(kept_PXY, 2, 64)]
        counted.append(sum(shape.numel() for _, shape in pairs))
        assert counted[-1] == int(kept_PXY.sum()) and all(n == shape[0] for n, shape in pairs)
    assert counted[1] < 0.3 * counted[0]


def test_a_tile_that_is_not_kept_is_not_read() -> None:
    q, k, v = (numbers(1, 12, 1, 4, seed=seed) for seed in range(3))
    kept = torch.eye(3, dtype=torch.bool)[None]
    k[:, :4] = v[:, :4] = torch.nan
    found = block_attention(q, k, v, torch.zeros(1, 12, dtype=torch.int32), kept, 4)
    assert found[:, :4].isnan().all() and not found[:, 4:].isnan().any()


def test_shapes_that_do_not_fit_are_refused() -> None:
    q, k, starts, kept = torch.ones(1, 6, 3, 4), torch.ones(1, 6, 2, 4), torch.zeros(1, 6), torch.ones(3, 2, 2) > 0
    with pytest.raises(ValueError, match="H a multiple of K"):
        block_attention(q, k, k, starts, kept, 3)
    with pytest.raises(ValueError, match=r"C = 3, not \(1, 6\) and \(3, 2, 2\)"):
        block_attention(q, q, q, starts, kept, 2)

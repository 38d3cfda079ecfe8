"""Blocks of documents, and which of them are kept, as tiles.

Letters as in kernels/block_attention; X blocks of the row that has the most.
"""

import torch
from torch import Tensor

from kernels.block_attention.tiles import Tiles


def blocks_of(starts_BT: Tensor, block: int) -> tuple[Tiles, Tensor]:
    """(tiles, one for each block of a document in its row; numbers_BX of the blocks in their documents, 0 where there is
    none)."""
    B, T = starts_BT.shape
    starts_BT = starts_BT.long()
    own_BT = torch.arange(T, device=starts_BT.device).expand(B, T)
    places_BT = own_BT - starts_BT
    row_BT = (places_BT % block == 0).cumsum(1) - 1
    blocks = int(row_BT.max()) + 1
    tokens_BN = starts_BT.new_full((B, blocks * block), -1)
    tokens_BN = tokens_BN.scatter(1, row_BT * block + places_BT % block, own_BT)
    groups_BN = starts_BT.gather(1, tokens_BN.clamp(min=0)).masked_fill(tokens_BN < 0, -1)
    numbers_BX = places_BT.gather(1, tokens_BN[:, ::block].clamp(min=0)) // block
    return Tiles(*(x.view(B, blocks, block) for x in (tokens_BN, groups_BN))), numbers_BX


def kept_tiles(kept: Tensor, tiles: Tiles, numbers_BX: Tensor) -> Tensor:
    """kept_PXX: whether a tile of queries is to read a tile of keys; kept as kernels.block_attention has it."""
    B, X = numbers_BX.shape
    if kept.ndim == 3:
        by_row = kept[:, numbers_BX]  # H x B x X x C
        of_tile_BHXC = by_row.transpose(0, 1)
    else:
        first_BX = tiles.tokens_RXb[..., 0].clamp(min=0)
        of_tile_BHXC = kept.gather(2, first_BX[:, None, :, None].expand(-1, kept.shape[1], -1, kept.shape[3]))
    H = of_tile_BHXC.shape[1]
    found_BHXX = of_tile_BHXC.gather(3, numbers_BX[:, None, None].expand(-1, H, X, -1))
    group_BX = tiles.groups_RXb[..., 0]
    beside_BXX = (group_BX[:, :, None] == group_BX[:, None]) & (group_BX >= 0)[:, None]
    before_BXX = beside_BXX & (numbers_BX[:, :, None] >= numbers_BX[:, None])
    return (found_BHXX & before_BXX[:, None]).flatten(0, 1)

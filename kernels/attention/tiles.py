"""The tiles of the attention kernels, by what a GPU and its tensors are.

Chosen by what the compilers tell, not by time on a device: the largest products that leave a thread its registers. Compiled for
sm_90 (Triton 3.7.1; `python -m kernels.attention.sizes`), as registers of a thread, bytes that it spills, and KiB of shared
memory of a program, of 227 that there are:

                forward     dq          dk, dv
    bf16  64    132 0  64   137 0  64   236 0  65
    bf16 128    191 0 128   218 0 128   254 0  96
    bf16 256    247 0 128   233 0 128   209 0  66
    fp32  64     95 0  28   106 0  36    92 0  36
    fp32 128     68 0  42    64 0  50   110 0  68
    fp32 256     64 0  49    77 0  65   110 0  65

Square tiles of 64 with 4 warps, near what the other GPUs have up to a width of 128, spill 428 bytes there for dk and dv of 128.
On sm_86, with 99 KiB, bf16 of 128 spills at most 28 bytes and a program has at most 72 KiB.
"""

from typing import NamedTuple


class Tile(NamedTuple):
    """Tile of one kernel: queries and keys of a product of scores, warps of a program, and steps of its loop in flight."""

    queries: int
    keys: int
    warps: int
    stages: int


def tiles_of(capability: tuple[int, int], width: int, itemsize: int) -> tuple[Tile, Tile, Tile]:
    """Tiles of the forward, of dq, and of dk and dv. width: of a head; itemsize: bytes of an entry."""
    if itemsize > 2:  # products without tensor cores, so more warps for the same tile
        if width <= 64:
            return Tile(32, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 32, 8, 2)
        if width <= 128:
            return Tile(16, 32, 8, 2), Tile(16, 32, 8, 2), Tile(32, 32, 8, 2)
        return (Tile(16, 16, 8, 2),) * 3
    if capability[0] == 9:  # two groups of 4 warps, each with a product of 64 rows (wgmma)
        if width <= 128:
            return Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(64 if width <= 64 else 32, 128, 8, 2)
        return Tile(128, 32, 8, 2), Tile(64, 32, 8, 2), Tile(32, 32, 8, 2)
    if width <= 128:
        return Tile(64, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64 if width <= 64 else 32, 64, 4, 2)
    return Tile(32, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 32, 8, 2)

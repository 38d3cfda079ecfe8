"""The tiles of the attention kernels, by what a GPU and its tensors are."""

from typing import NamedTuple


class Tile(NamedTuple):
    """Of one kernel: queries and keys of a product of scores, warps of a program, and steps of the loop in flight."""

    queries: int
    keys: int
    warps: int
    stages: int


def tiles_of(capability: tuple[int, int], width: int, itemsize: int) -> tuple[Tile, Tile, Tile]:
    """Tiles of the forward, of dq, and of dk and dv. width: of a head; itemsize: bytes of an entry."""
    if itemsize == 2 and capability[0] == 9 and width <= 128:
        return Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(64, 128, 8, 2)
    if itemsize == 2 and width <= 128:
        return Tile(64, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 64, 4, 2)
    return Tile(32, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 32, 4, 2)

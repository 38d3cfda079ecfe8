"""Tiles are timed as they are called, and what is tried is put back. Under the interpreter: how long one takes means nothing."""

from pathlib import Path

import pytest
import torch

from benchmarks.gpu import measure, tiles
from benchmarks.gpu.check import Check
from kernels.attention import triton as attention
from kernels.attention.tiles import Tile
from kernels.norm_rope import triton as norm_rope
from kernels.rms_norm import triton as rms_norm


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(tiles, "milliseconds", lambda call, device, *_: measure.milliseconds(call, device, 1, 0))
    return Check(torch.device("cpu"), True, tmp_path, "tiles")


def test_each_kernel_is_called_with_the_tile_that_the_row_names(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[Tile, ...]] = []
    before, options = attention._tiles, attention.options
    monkeypatch.setattr(attention, "options", lambda q, k, tile: tried.append(tile) or options(q, k, tile))
    monkeypatch.setattr(tiles, "CHOICES", {name: [(16, 16, 4, 1)] for name in tiles.CHOICES})
    tiles.attention_tiles(check, 1, 20, 1, 16)
    rows = check.rows()
    assert [row["name"].partition(":")[0] for row in rows] == [
        f"attention, 16 wide, {kernel}" for kernel in tiles.CHOICES for _ in range(2)
    ]
    assert [row["chosen"] for row in rows] == [True, False] * 3 and all(row["value"] > 0 for row in rows)
    # the forward whose results a backward needs is not told how, and takes what the interpreter gets; of a backward both run
    mine, (least, *_) = tiles.tiles_of((9, 0), 16, 2), tiles.tiles_of((8, 0), 16, 2)
    assert tried[:4] == [least, mine[0], least, Tile(16, 16, 4, 1)]
    assert tried[-3:] == [least, mine[1], Tile(16, 16, 4, 1)]
    assert attention._tiles is before


def test_constants_are_put_back(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rms_norm.TILE, norm_rope.TILE, norm_rope.PROGRAMS
    monkeypatch.setattr(tiles, "FACTORS", [(1.0, 1.0), (0.5, 2.0)])
    tiles.pointwise_tiles(check, 64)
    rows = check.rows()
    assert [row["name"] for row in rows if row["name"].startswith("norm_rope forward")] == [
        f"norm_rope forward: tile {before[1]}, programs {before[2]}",
        f"norm_rope forward: tile {before[1] // 2}, programs {2 * before[2]}",
    ]
    assert sum(row["chosen"] for row in rows) == 6 and len(rows) == 12
    assert before == (rms_norm.TILE, norm_rope.TILE, norm_rope.PROGRAMS)

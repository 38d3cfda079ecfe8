"""A palette: each weight is the number of one of few values, which the matrix has a table of.

Letters: O outputs (rows), I inputs (columns), K values.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lm.quantized.base import PackedMatrix, check_shapes
from lm.quantized.counts import packed_codes, unpacked


@dataclass(frozen=True)
class Palette(PackedMatrix):
    """codes: uint8, as those of Counts.
    scales: (K,), the values, K = 2^bits; by this name a file has them, as all that codes are counted in.
    """

    codes: Tensor
    scales: Tensor
    bits: int
    shape: tuple[int, int]

    def dequantize(self) -> Tensor:
        return self.scales.float()[unpacked(self.codes, self.bits, self.shape[1]).long()]

    def parts(self) -> dict[str, Tensor]:
        return {"codes": self.codes, "scales": self.scales}

    def description(self) -> dict[str, Any]:
        return {"palette": self.bits, "shape": list(self.shape)}

    def symbols(self) -> Tensor:
        return unpacked(self.codes, self.bits, self.shape[1]).reshape(1, -1).long()

    @classmethod
    def of(cls, name: str, parts: dict[str, Tensor], description: dict[str, Any]) -> "Palette":
        """The inverse of parts() and description(). Raises ValueError naming the weight when they do not fit."""
        bits, (rows, columns) = description["palette"], description["shape"]
        check_shapes(name, parts, {"codes": (rows, -(-columns * bits // 8)), "scales": (2**bits,)}, (rows, columns))
        return cls(parts["codes"], parts["scales"], bits, (rows, columns))


def pack_palette(numbers_OI: Tensor, values_K: Tensor, bits: int) -> Palette:
    """The packed matrix of numbers of values, which are whole, from 0 to 2^bits - 1."""
    rows, columns = numbers_OI.shape
    return Palette(packed_codes(numbers_OI.to(torch.uint8), bits), values_K, bits, (rows, columns))

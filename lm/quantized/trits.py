"""Planes of trits: each weight is a sum of scales, one a plane, each times -1, 0 or 1.

Letters: P planes, O outputs (rows), I inputs (columns), N groups of columns in a row.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lm.quantized.base import PackedMatrix, by_column, check_shapes

# 3^5 = 243 of a byte's 256 values: 1.6 bits a trit, where log2(3) is 1.585
TRITS = 5


@dataclass(frozen=True)
class Trits(PackedMatrix):
    """codes: uint8, (P, O, ceil(I / 5)); five trits a byte, each with 1 added, the first being the lowest digit of base 3.
    scales: (P, O, N), by which a plane's trits of a group are multiplied.
    group: columns a group (the last one may be shorter).
    """

    codes: Tensor
    scales: Tensor
    group: int
    shape: tuple[int, int]

    def dequantize(self) -> Tensor:
        columns = self.shape[1]
        planes = [
            trits.float() * by_column(scales, self.group, columns)
            for trits, scales in zip(trits_of(self.codes, columns), self.scales, strict=True)
        ]
        return torch.stack(planes).sum(0)

    def parts(self) -> dict[str, Tensor]:
        return {"codes": self.codes, "scales": self.scales}

    def description(self) -> dict[str, Any]:
        return {"planes": len(self.codes), "group": self.group, "shape": list(self.shape)}

    def symbols(self) -> Tensor:
        return trits_of(self.codes, self.shape[1]).flatten(1).long() + 1

    @classmethod
    def of(cls, name: str, parts: dict[str, Tensor], description: dict[str, Any]) -> "Trits":
        """The inverse of parts() and description(). Raises ValueError naming the weight when they do not fit."""
        planes, group, (rows, columns) = description["planes"], description["group"], description["shape"]
        wanted = {"codes": (planes, rows, -(-columns // TRITS)), "scales": (planes, rows, -(-columns // group))}
        check_shapes(name, parts, wanted, (rows, columns))
        return cls(parts["codes"], parts["scales"], group, (rows, columns))


def pack_trits(trits_POI: Tensor, scales_PON: Tensor, group: int) -> Trits:
    """The packed matrix of trits, which are -1, 0 and 1."""
    _, rows, columns = trits_POI.shape
    digits = torch.nn.functional.pad((trits_POI + 1).to(torch.uint8), (0, -columns % TRITS))
    places = 3 ** torch.arange(TRITS, dtype=torch.uint8, device=digits.device)
    codes = (digits.unflatten(2, (-1, TRITS)) * places).sum(3, dtype=torch.uint8)
    return Trits(codes, scales_PON, group, (rows, columns))


def trits_of(codes: Tensor, columns: int) -> Tensor:
    """trits_POI, int8, of bytes that each hold five."""
    places = 3 ** torch.arange(TRITS, dtype=torch.uint8, device=codes.device)
    return ((codes[..., None] // places % 3).flatten(2)[:, :, :columns]).to(torch.int8) - 1

"""Equal steps: each weight is a count of the step of its group, in 1 to 8 bits.

Letters: O outputs (rows), I inputs (columns), N groups of columns in a row.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lm.quantized.base import PackedMatrix, by_column, check_shapes


@dataclass(frozen=True)
class Counts(PackedMatrix):
    """codes: uint8, (O, ceil(I * bits / 8)); a row's codes one after the other, the low bit of each first, from the low bit of
    each byte on: of two 4-bit codes in a byte the low half is the even column.
    scales: (O, N), the step between neighbouring codes of a group.
    minima: (O, N), the value of code 0, or None when the middle code, 2^(bits - 1), stands for 0.
    group: columns a group (the last one may be shorter), or 0 when the whole row is one.
    columns: (I,), by which each column was multiplied before it was counted; None: 1.
    """

    codes: Tensor
    scales: Tensor
    minima: Tensor | None
    bits: int
    group: int
    shape: tuple[int, int]
    columns: Tensor | None = None

    def dequantize(self) -> Tensor:
        columns = self.shape[1]
        counts = unpacked(self.codes, self.bits, columns).float()
        if self.minima is None:
            found = (counts - 2 ** (self.bits - 1)) * by_column(self.scales, self.group, columns)
        else:
            low = by_column(self.minima, self.group, columns)
            found = low + counts * by_column(self.scales, self.group, columns)
        return found if self.columns is None else found / self.columns.float()

    def parts(self) -> dict[str, Tensor]:
        there = {"codes": self.codes, "scales": self.scales, "minima": self.minima, "columns": self.columns}
        return {name: tensor for name, tensor in there.items() if tensor is not None}

    def description(self) -> dict[str, Any]:
        return {"bits": self.bits, "group": self.group, "shape": list(self.shape)}

    def symbols(self) -> Tensor:
        return unpacked(self.codes, self.bits, self.shape[1]).reshape(1, -1).long()

    @classmethod
    def of(cls, name: str, parts: dict[str, Tensor], description: dict[str, Any]) -> "Counts":
        """The inverse of parts() and description(). Raises ValueError naming the weight when they do not fit."""
        bits, group, (rows, columns) = description["bits"], description["group"], description["shape"]
        groups = (rows, -(-columns // (group or columns)))
        wanted = {"codes": (rows, -(-columns * bits // 8)), "scales": groups, "minima": groups, "columns": (columns,)}
        check_shapes(name, parts, wanted, (rows, columns))
        minima, scaled = parts.get("minima"), parts.get("columns")
        return cls(parts["codes"], parts["scales"], minima, bits, group, (rows, columns), scaled)


def pack(
    codes_OI: Tensor,
    scales_ON: Tensor,
    minima_ON: Tensor | None,
    bits: int,
    group: int,
    columns_I: Tensor | None = None,
) -> Counts:
    """The packed matrix of codes that are whole numbers from 0 to 2^bits - 1."""
    shape = (codes_OI.shape[0], codes_OI.shape[1])
    return Counts(packed_codes(codes_OI.to(torch.uint8), bits), scales_ON, minima_ON, bits, group, shape, columns_I)


def packed_codes(codes_OI: Tensor, bits: int) -> Tensor:
    """The bytes of codes, uint8, as Counts has them."""
    if bits == 8:
        return codes_OI.contiguous()
    if bits == 4:
        codes = torch.nn.functional.pad(codes_OI, (0, codes_OI.shape[1] % 2))
        return codes[:, 0::2] | codes[:, 1::2] << 4
    stream = (codes_OI[:, :, None] >> _places(bits, codes_OI.device) & 1).flatten(1)
    stream = torch.nn.functional.pad(stream, (0, -stream.shape[1] % 8)).unflatten(1, (-1, 8))
    return (stream << _places(8, codes_OI.device)).sum(2, dtype=torch.uint8)


def unpacked(codes: Tensor, bits: int, columns: int) -> Tensor:
    """codes_OI, the whole numbers that a packed matrix is made of."""
    if bits == 8:
        return codes
    if bits == 4:
        return torch.stack((codes & 15, codes >> 4), dim=2).flatten(1)[:, :columns]
    stream = (codes[:, :, None] >> _places(8, codes.device) & 1).flatten(1)[:, : columns * bits]
    return (stream.unflatten(1, (columns, bits)) << _places(bits, codes.device)).sum(2, dtype=torch.uint8)


def _places(bits: int, device: torch.device) -> Tensor:
    return torch.arange(bits, dtype=torch.uint8, device=device)

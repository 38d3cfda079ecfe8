"""Weights in few bits: what a packed matrix is, and how a model of packed matrices lies in a safetensors file.

Letters: O outputs (rows), I inputs (columns), N groups of columns in a row.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """A matrix as small whole numbers and what they are counted in.

    codes: uint8, (O, ceil(I * bits / 8)); of two 4-bit codes in a byte the low half is the even column.
    scales: (O, N), the step between neighbouring codes of a group.
    minima: (O, N), the value of code 0, or None when the middle code, 2^(bits - 1), stands for 0.
    group: columns a group (the last one may be shorter), or 0 when the whole row is one.
    """

    codes: Tensor
    scales: Tensor
    minima: Tensor | None
    bits: int
    group: int
    shape: tuple[int, int]

    def dequantize(self) -> Tensor:
        """weight_OI in float32."""
        columns = self.shape[1]
        counts = unpacked(self.codes, self.bits, columns).float()
        if self.minima is None:
            return (counts - 2 ** (self.bits - 1)) * by_column(self.scales, self.group, columns)
        return by_column(self.minima, self.group, columns) + counts * by_column(self.scales, self.group, columns)

    @property
    def num_bytes(self) -> int:
        """Bytes stored: codes, scales and minima."""
        return sum(tensor.nbytes for tensor in self.tensors("").values())

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.num_bytes / (self.shape[0] * self.shape[1])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What goes into a safetensors file for the weight of this name; description() is the rest."""
        parts = {f"{name}.codes": self.codes, f"{name}.scales": self.scales}
        return parts if self.minima is None else {**parts, f"{name}.minima": self.minima}

    def description(self) -> dict[str, Any]:
        """What the tensors do not say, as JSON."""
        return {"bits": self.bits, "group": self.group, "shape": list(self.shape)}

    @classmethod
    def of(cls, name: str, tensors: dict[str, Tensor], description: dict[str, Any]) -> "Packed":
        """The inverse of tensors() and description(). Raises ValueError naming the weight when they do not fit."""
        try:
            codes, scales = tensors[f"{name}.codes"], tensors[f"{name}.scales"]
            bits, group, (rows, columns) = description["bits"], description["group"], description["shape"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{name}: the packed weight is not whole: {type(error).__name__} {error}") from None
        minima = tensors.get(f"{name}.minima")
        groups = -(-columns // (group or columns))
        if codes.shape != (rows, -(-columns * bits // 8)) or any(
            part.shape != (rows, groups) for part in (scales, minima) if part is not None
        ):
            raise ValueError(
                f"{name}: the packed weight does not have the shape {rows} x {columns} that is written for it"
            )
        return cls(codes, scales, minima, bits, group, (rows, columns))


def pack(codes_OI: Tensor, scales_ON: Tensor, minima_ON: Tensor | None, bits: int, group: int) -> Packed:
    """The packed matrix of codes that are whole numbers from 0 to 2^bits - 1; bits is 4 or 8."""
    shape = (codes_OI.shape[0], codes_OI.shape[1])
    codes = codes_OI.to(torch.uint8)
    if bits == 4:
        codes = torch.nn.functional.pad(codes, (0, shape[1] % 2))
        codes = codes[:, 0::2] | codes[:, 1::2] << 4
    return Packed(codes.contiguous(), scales_ON, minima_ON, bits, group, shape)


def check_matrix(weight: Tensor) -> None:
    """Raises ValueError unless it is a matrix of finite numbers, of a size whose range float32 can hold."""
    if weight.ndim != 2 or not weight.numel():
        raise ValueError(f"cannot be quantized: its shape is {tuple(weight.shape)}, not that of a matrix with entries")
    if not torch.isfinite(weight).all():
        raise ValueError("cannot be quantized: it has NaN or infinite entries")
    if weight.abs().max() > 1e38:
        raise ValueError(f"cannot be quantized: an entry of magnitude {weight.abs().max():.3g} is above 1e38")


def pack_state(packed: dict[str, Packed], rest: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors for a safetensors file, and the `quantization` section of config.json that goes with them.

    Raises ValueError when two weights would lie under one name.
    """
    tensors = dict(rest)
    for name, weight in packed.items():
        for key, tensor in weight.tensors(name).items():
            if key in tensors:
                raise ValueError(f"{key}: two weights of the model would have this name once it is packed")
            tensors[key] = tensor
    return tensors, {"weights": {name: weight.description() for name, weight in sorted(packed.items())}}


def unpack_state(tensors: dict[str, Tensor], description: dict[str, Any]) -> dict[str, Tensor]:
    """Every weight in float32 under its own name: the inverse of pack_state, up to what quantization lost.

    Raises ValueError naming the weight that is missing or does not fit its description.
    """
    weights = description.get("weights", {})
    state = {name: Packed.of(name, tensors, weights[name]).dequantize() for name in weights}
    parts = {f"{name}.{part}" for name in weights for part in ("codes", "scales", "minima")}
    return state | {name: tensor.float() for name, tensor in tensors.items() if name not in parts}


def unpacked(codes: Tensor, bits: int, columns: int) -> Tensor:
    """codes_OI, the whole numbers that a packed matrix is made of."""
    if bits == 8:
        return codes
    return torch.stack((codes & 15, codes >> 4), dim=2).flatten(1)[:, :columns]


def by_column(values_ON: Tensor, group: int, columns: int) -> Tensor:
    """values_OI in fp32: those of groups, for each of their columns."""
    return values_ON.float().repeat_interleave(group or columns, dim=1)[:, :columns]

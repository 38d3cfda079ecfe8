"""Weights in few bits: what every way to hold a matrix in whole numbers says of itself.

Letters: O outputs (rows), I inputs (columns), N groups of columns in a row.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class PackedMatrix(ABC):
    """A matrix as small whole numbers and what they are counted in. shape: (O, I)."""

    shape: tuple[int, int]

    @abstractmethod
    def dequantize(self) -> Tensor:
        """weight_OI in float32."""

    @abstractmethod
    def parts(self) -> dict[str, Tensor]:
        """Tensors by their names, `codes` and `scales` among them."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What the tensors do not say, as JSON."""

    @abstractmethod
    def symbols(self) -> Tensor:
        """The whole numbers, int64, (symbols of a kind, their count): what a coder of frequencies would write."""

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What goes into a safetensors file for the weight of this name; description() is the rest."""
        return {f"{name}.{part}": tensor for part, tensor in self.parts().items()}

    @property
    def num_bytes(self) -> int:
        """Bytes stored: codes, scales and what else there is."""
        return sum(tensor.nbytes for tensor in self.parts().values())

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.num_bytes / (self.shape[0] * self.shape[1])

    @property
    def entropy_bytes(self) -> float:
        """Bytes in which an ideal coder would hold it that knows how often each whole number occurs in it: their entropy
        (Shannon 1948), and the rest as it is. The table of frequencies is not counted."""
        bits = 0.0
        for kind in self.symbols():
            counts = torch.bincount(kind).double()
            shares = counts[counts > 0] / len(kind)
            bits -= len(kind) * float((shares * shares.log2()).sum())
        return bits / 8 + self.num_bytes - self.parts()["codes"].nbytes


def check_matrix(weight: Tensor) -> None:
    """Raises ValueError unless it is a matrix of finite numbers, of a size whose range float32 can hold."""
    if weight.ndim != 2 or not weight.numel():
        raise ValueError(f"cannot be quantized: its shape is {tuple(weight.shape)}, not that of a matrix with entries")
    if not torch.isfinite(weight).all():
        raise ValueError("cannot be quantized: it has NaN or infinite entries")
    if weight.abs().max() > 1e38:
        raise ValueError(f"cannot be quantized: an entry of magnitude {weight.abs().max():.3g} is above 1e38")


def by_column(values_ON: Tensor, group: int, columns: int) -> Tensor:
    """values_OI in fp32: those of groups, for each of their columns. group: 0 for the whole row."""
    return values_ON.float().repeat_interleave(group or columns, dim=1)[:, :columns]


def check_shapes(name: str, parts: dict[str, Tensor], wanted: Mapping[str, tuple[int, ...]], shape: Any) -> None:
    """Raises ValueError naming the weight where a part that is there does not have the shape that is wanted of it."""
    if any(part.shape != wanted[key] for key, part in parts.items()):
        raise ValueError(
            f"{name}: the packed weight does not have the shape {shape[0]} x {shape[1]} that is written for it"
        )

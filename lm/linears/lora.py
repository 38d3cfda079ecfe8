"""LoRA: a matrix that stays, and a product of two thin ones that is trained beside it (Hu et al. 2021, arXiv:2106.09685).

Letters: O outputs, I inputs, R rank.
"""

import math
import zlib
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lm.config import ConfigError
from lm.linears.base import Held, Holding


class LoRALinear(Held):
    """x weight^T + scale * x down^T up^T + bias; up begins as zeros, so that the layer begins as what it was."""

    roles = {"weight": "matrix", "bias": "vector", "down": "matrix", "up": "matrix"}  # noqa: RUF012

    def __init__(self, linear: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias, self.scale = linear.weight, linear.bias, scale
        bound = 1 / math.sqrt(self.in_features)  # as torch draws a Linear layer
        down_RI = torch.empty(rank, self.in_features).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(down_RI.to(self.weight.device))
        self.up = nn.Parameter(torch.zeros(self.out_features, rank, device=self.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(F.linear(x, self.down), self.up)

    def flops(self) -> float:
        """Without the gradient of the matrix that stays."""
        return 4.0 * self.weight.numel() + 6.0 * (self.down.numel() + self.up.numel())

    def dense(self) -> Tensor:
        return self.weight + self.scale * (self.up @ self.down)


class LoRA(Holding):
    """Differs from the paper: all matrices of a block are adapted unless `matrices` says which, as Schulman et al. 2025
    ("LoRA without regret") found best; its own are query and value. `down` begins uniform in place of normal."""

    name: Literal["lora"] = "lora"
    rank: int = Field(8, gt=0)
    alpha: float = Field(16.0, gt=0, description="the product counts alpha / rank")
    matrices: list[str] = Field([], description="names of the layers that are adapted, such as query; none: all")
    seed: int = Field(0, ge=0, description="of the first values")

    alone: ClassVar[bool] = True

    def check(self, names: list[str]) -> None:
        known = sorted({name.rpartition(".")[2] for name in names})
        for name in self.matrices:
            if name not in known:
                raise ConfigError(f"linear.matrices: no {name!r} (allowed: {', '.join(known)})")

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """A layer with the two thin matrices, or the layer itself where it is not adapted."""
        if self.matrices and name.rpartition(".")[2] not in self.matrices:
            return linear
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))  # it reads 32 bits
        return LoRALinear(linear, self.rank, self.alpha / self.rank, generator)

"""What adapters share: a matrix that stays, and a product of two thin ones that is trained beside it.

Letters: O outputs, I inputs, R rank.
"""

import math
import zlib
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from lm.config import ConfigError
from lm.linears.base import Held, Holding


def low_rank(weight_OI: Tensor, up_OR: Tensor, down_RI: Tensor, scale: float) -> Tensor:
    """W + s B A (Hu et al. 2021, arXiv:2106.09685, equation 3)."""
    return weight_OI + scale * (up_OR @ down_RI)


def scale_of(alpha: float, rank: int, scaling: str) -> float:
    """What the thin product counts: alpha / R as in LoRA, or alpha / sqrt(R), by which outputs and gradients keep their size
    whatever the rank is (rsLoRA: Kalajdzievski 2023, arXiv:2312.03732)."""
    return alpha / (math.sqrt(rank) if scaling == "root_rank" else rank)


def is_named(name: str, pattern: str) -> bool:
    """Whether a layer is meant: a pattern is one or more parts of its name in a row, so that `ffn`, `query` and `0.ffn.up`
    mean layers of `blocks.0.ffn.up` and the like."""
    return f".{pattern}." in f".{name}."


class AdaptedLinear(Held):
    """x weight^T + scale * x down^T up^T + bias; up begins as zeros, so that the layer begins as what it was."""

    roles = {"weight": "matrix", "bias": "vector", "down": "matrix", "up": "matrix"}  # noqa: RUF012

    def __init__(self, linear: nn.Linear, rank: int, scale: float, up_rate: float, generator: torch.Generator) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias, self.scale = linear.weight, linear.bias, scale
        self.rates = {"up": up_rate}
        bound = 1 / math.sqrt(self.in_features)  # as torch draws a Linear layer
        down_RI = torch.empty(rank, self.in_features).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(down_RI.to(self.weight.device))
        self.up = nn.Parameter(torch.zeros(self.out_features, rank, device=self.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)

    def both(self, x_TI: Tensor) -> Tensor:
        """y_TO of T inputs. The thin product is added in place: a result of its own size beside each of these took 26% of the
        memory of a step of 20 million weights, most of it as holes between what is kept."""
        made_TO = self.base(x_TI)
        return made_TO.addmm_(F.linear(x_TI, self.down), self.up.T.to(made_TO.dtype), alpha=self.scale)

    def base(self, x_TI: Tensor) -> Tensor:
        """Product with the matrix that stays."""
        return F.linear(x_TI, self.weight, self.bias)

    def flops(self) -> float:
        """Without the gradient of the matrix that stays."""
        return 4.0 * self.in_features * self.out_features + 6.0 * (self.down.numel() + self.up.numel())

    def dense(self) -> Tensor:
        return low_rank(self.weight, self.up, self.down, self.scale)


@dataclass(frozen=True)
class Learned:
    """An adapter that was merged: what was asked for, and of each layer, by its name, `down`, `up` and what else learned."""

    method: "Adapter"
    layers: dict[str, dict[str, Tensor]]


class Adapter(Holding):
    """The parameters of LoRA and its kind.

    Differs from LoRA's paper: all matrices of a block are adapted unless `matrices` says which, as Schulman et al. 2025
    ("LoRA without regret") found best; its own are query and value. `down` begins uniform in place of normal, and there is no
    dropout.
    """

    rank: int = Field(8, gt=0)
    alpha: float = Field(16.0, gt=0, description="the product counts alpha / rank")
    scaling: Literal["rank", "root_rank"] = Field(
        "rank", description="root_rank: it counts alpha / sqrt(rank), as rsLoRA"
    )
    matrices: list[str] = Field(
        [], description="which layers are adapted, by parts of their names: ffn, query, 0.attention.value; none: all"
    )
    ranks: dict[str, int] = Field(
        {}, description="rank of the layers that a name means, in place of `rank`; of several names the longest holds"
    )
    up_rate: float = Field(
        1.0, gt=0, description="learning rate of the matrix that begins as zeros, over that of the other; LoRA+: 16"
    )
    seed: int = Field(0, ge=0, description="of the first values")
    keep: bool = Field(False, description="leave the adapter beside the merged model too, as the library peft reads it")

    @field_validator("ranks")
    @classmethod
    def _above_zero(cls, ranks: dict[str, int]) -> dict[str, int]:
        if wrong := [name for name, rank in ranks.items() if rank <= 0]:
            raise ValueError(f"{wrong[0]}: {ranks[wrong[0]]} is no rank: leave a layer out by `matrices`")
        return ranks

    def check(self, names: list[str]) -> None:
        check_patterns("matrices", self.matrices, names)
        check_patterns("ranks", [*self.ranks], names)

    def staying(self, names: list[str]) -> set[str]:
        return set(names)

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """A layer with the two thin matrices, or the layer itself where it is not adapted."""
        if self.matrices and not any(is_named(name, pattern) for pattern in self.matrices):
            return linear
        # by length and not by order, which a key of parameters does not see
        own = max(
            (pattern for pattern in self.ranks if is_named(name, pattern)), key=lambda one: (len(one), one), default=""
        )
        rank = self.ranks.get(own, self.rank)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))  # it reads 32 bits
        return self.adapted(linear, rank, scale_of(self.alpha, rank, self.scaling), generator)

    @abstractmethod
    def adapted(self, linear: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> AdaptedLinear:
        """The layer with thin matrices beside it."""

    def learned(self, layers: dict[str, Held]) -> Learned | None:
        """Tensors of the adapter, where it is to be kept."""
        if not self.keep:
            return None
        trained = {
            name: {part: weight.detach() for part, weight in layer.named_parameters() if weight.requires_grad}
            for name, layer in layers.items()
        }
        return Learned(self, trained)


def check_patterns(key: str, patterns: list[str], names: list[str]) -> None:
    """Raises ConfigError, naming the key, for a pattern that means none of the layers of these names."""
    known = sorted({part for name in names for part in name.split(".") if not part.isdigit()})
    for pattern in patterns:
        if not any(is_named(f"blocks.{name}", pattern) for name in names):
            raise ConfigError(f"linear.{key}: no {pattern!r} (allowed: {', '.join(known)}, and rows of them)")

"""What adapters share: which layers are adapted, and a matrix that stays beside a product of two thin ones that is trained.

Letters: O outputs, I inputs, R rank.
"""

import math
import zlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from lm.linears.base import ReparametrizedLinear, SelectiveLinearMethod, check_patterns, is_named


def low_rank(weight_OI: Tensor, up_OR: Tensor, down_RI: Tensor, scale: float) -> Tensor:
    """W + s B A (Hu et al. 2021, arXiv:2106.09685, equation 3)."""
    return weight_OI + scale * (up_OR @ down_RI)


def scale_of(alpha: float, rank: int, scaling: str) -> float:
    """What the thin product counts: alpha / R as in LoRA, or alpha / sqrt(R), by which outputs and gradients keep their size
    whatever the rank is (rsLoRA: Kalajdzievski 2023, arXiv:2312.03732)."""
    return alpha / (math.sqrt(rank) if scaling == "root_rank" else rank)


def principal(weight_OI: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """(up_OR, down_RI) of PiSSA (Meng et al. 2024, arXiv:2404.02948, section 3): the largest R singular values, whose roots
    are in either matrix, so that scale * up down is the best approximation of that rank."""
    left_OK, values_K, right_KI = torch.linalg.svd(weight_OI, full_matrices=False)
    roots_R = (values_K[:rank] / scale).sqrt()
    return (left_OK[:, :rank] * roots_R).contiguous(), (roots_R[:, None] * right_KI[:rank]).contiguous()


def orthonormal(weight_OI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(up_OR, down_RI) of OLoRA (Büyükakyüz 2024, arXiv:2406.01775): the first R columns of Q and rows of R in W = Q R."""
    q_OK, r_KI = torch.linalg.qr(weight_OI)
    return q_OK[:, :rank].contiguous(), r_KI[:rank].contiguous()


def generator_of(seed: int, name: str) -> torch.Generator:
    """What draws the first values of the layer of this name."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))  # it reads 32 bits


@dataclass(frozen=True)
class AdapterState:
    """An adapter that was merged: what was asked for; of each layer, by its name, `down`, `up` and what else learned; and what
    its layers share, where they do."""

    method: "Adapter"
    layers: dict[str, dict[str, Tensor]]
    shared: dict[str, Tensor] = field(default_factory=dict)


class Adapter(SelectiveLinearMethod):
    """Parameters of every adapter.

    Differs from most papers: all matrices of a block are adapted unless `matrices` says which, as Schulman et al. 2025 ("LoRA
    without regret") found best for LoRA; there is no dropout.
    """

    rank: int = Field(8, gt=0)
    seed: int = Field(0, ge=0, description="of the first values")
    keep: bool = Field(False, description="leave the adapter beside the merged model too, as the library peft reads it")

    def frozen_parameters(self, names: list[str]) -> set[str]:
        return set(names)

    def artifact(self, layers: dict[str, ReparametrizedLinear]) -> AdapterState | None:
        """Tensors of the adapter, where it is to be kept."""
        return self.adapter_state(layers) if self.keep else None

    @abstractmethod
    def adapter_state(self, layers: Mapping[str, ReparametrizedLinear]) -> AdapterState:
        """Tensors of the adapter."""


class AdaptedLinear(ReparametrizedLinear):
    """x weight^T + scale * x down^T up^T + bias. Where up begins as zeros the layer begins as what it was, to the bit; where
    both begin as a part of the matrix, what stays is the rest of it, and their sum is the matrix to rounding."""

    roles = {"weight": "matrix", "bias": "vector", "down": "matrix", "up": "matrix"}  # noqa: RUF012
    first_up: Tensor
    first_down: Tensor

    def __init__(
        self, linear: nn.Linear, method: "LowRank", rank: int, scale: float, generator: torch.Generator
    ) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias, self.scale = linear.weight, linear.bias, scale
        self.rates = {"up": method.up_rate}
        if method.start == "uniform":
            bound = 1 / math.sqrt(self.in_features)  # as torch draws a Linear layer
            down_RI = torch.empty(rank, self.in_features).uniform_(-bound, bound, generator=generator)
            up_OR = torch.zeros(self.out_features, rank, device=self.weight.device)
        else:
            weight_OI = self.weight.detach()
            pissa = method.start == "pissa"
            up_OR, down_RI = principal(weight_OI, rank, scale) if pissa else orthonormal(weight_OI, rank)
            rest_OI = low_rank(weight_OI, up_OR, down_RI, -scale)
            self.weight = nn.Parameter(rest_OI, self.weight.requires_grad)
            if method.keep:
                # no checkpoint holds them: they follow from the weights that a run begins with
                self.register_buffer("first_up", up_OR.clone(), persistent=False)
                self.register_buffer("first_down", down_RI.clone(), persistent=False)
        self.down = nn.Parameter(down_RI.to(self.weight.device), method.trained == "both")
        self.up = nn.Parameter(up_OR)

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
        """Without the gradient of what stays."""
        down = (6.0 if self.down.requires_grad else 4.0) * self.down.numel()
        return 4.0 * self.in_features * self.out_features + down + 6.0 * self.up.numel()

    def dense(self) -> Tensor:
        return low_rank(self.weight, self.up, self.down, self.scale)

    def parts(self) -> dict[str, Tensor]:
        """The adapter beside the matrix that the run began with. Where it began as a part of that one, the part is taken off
        again, by columns and rows of its own, as the paper of PiSSA makes a LoRA of what it has learned."""
        up_OR, down_RI = self.up.detach(), self.down.detach()
        if "first_up" in self._buffers:
            return {"up": torch.cat((up_OR, -self.first_up), 1), "down": torch.cat((down_RI, self.first_down))}
        return {"up": up_OR, "down": down_RI}


class LowRank(Adapter):
    """Parameters of LoRA and its kind.

    Differs from LoRA's paper: its own matrices are query and value, and `down` begins uniform in place of normal.
    """

    alpha: float = Field(16.0, gt=0, description="the product counts alpha / rank")
    scaling: Literal["rank", "root_rank"] = Field(
        "rank", description="root_rank: it counts alpha / sqrt(rank), as rsLoRA"
    )
    ranks: dict[str, int] = Field(
        {}, description="rank of the layers that a name means, in place of `rank`; of several names the longest holds"
    )
    start: Literal["uniform", "pissa", "olora"] = Field(
        "uniform",
        description="first values: random and zeros; or a part of the matrix, whose rest then stays: its largest singular "
        "values (pissa), or columns of its QR decomposition (olora), at most as many as it has",
    )
    trained: Literal["both", "up"] = Field(
        "both", description="up: the other thin matrix stays as it begins, and inputs need not be kept (LoRA-FA)"
    )
    up_rate: float = Field(
        1.0, gt=0, description="learning rate of the matrix that begins as zeros, over that of the other; LoRA+: 16"
    )

    @field_validator("ranks")
    @classmethod
    def _above_zero(cls, ranks: dict[str, int]) -> dict[str, int]:
        if wrong := [name for name, rank in ranks.items() if rank <= 0]:
            raise ValueError(f"{wrong[0]}: {ranks[wrong[0]]} is no rank: leave a layer out by `matrices`")
        return ranks

    def check(self, names: list[str]) -> None:
        super().check(names)
        check_patterns("ranks", [*self.ranks], names)

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """A layer with the two thin matrices, or the layer itself where it is not adapted."""
        if not self.applies_to(name):
            return linear
        # by length and not by order, which a key of parameters does not see
        own = max(
            (pattern for pattern in self.ranks if is_named(name, pattern)), key=lambda one: (len(one), one), default=""
        )
        rank = self.ranks.get(own, self.rank)
        if self.start != "uniform":  # a decomposition has no more
            rank = min(rank, linear.in_features, linear.out_features)
        return self.adapted(linear, rank, scale_of(self.alpha, rank, self.scaling), generator_of(self.seed, name))

    @abstractmethod
    def adapted(self, linear: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> AdaptedLinear:
        """The layer with thin matrices beside it."""

    def adapter_state(self, layers: Mapping[str, ReparametrizedLinear]) -> AdapterState:
        """What the thin matrices learned, of twice the rank and the same scale where they began as a part of the matrix."""
        method = self
        if self.start != "uniform":
            doubled = {name: 2 * rank for name, rank in self.ranks.items()}
            alpha = self.alpha * (math.sqrt(2) if self.scaling == "root_rank" else 2)
            method = self.model_copy(update={"rank": 2 * self.rank, "ranks": doubled, "alpha": alpha})
        parts = {name: layer.parts() for name, layer in layers.items() if isinstance(layer, AdaptedLinear)}
        return AdapterState(method, parts)

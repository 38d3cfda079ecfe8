"""VeRA: two thin random matrices that all layers share and nobody trains; of each layer two vectors are trained beside them.

Kopiczko et al. 2023, arXiv:2310.11454: W + diag(b) B diag(d) A, b beginning as zeros and d as one number. A layer
takes as many columns of A and rows of B as it has inputs and outputs. They are drawn as the library peft draws them, so that
either has those of the other for a seed.

Differs from the paper: all matrices of a block are adapted unless `matrices` says which; and the learning rate of a VeRA is a
parameter of the optimizer, as any (the paper's is some 10 times LoRA's).

Letters: O outputs, I inputs, R rank.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lm.linears.adapter import Adapter, AdapterState, low_rank
from lm.linears.base import ReparametrizedLinear


def shared_matrices(seed: int, rank: int, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """(up_OR, down_RI): uniform, with a variance of 2 over the numbers that a sum is of (He et al. 2015, arXiv:1502.01852)."""
    generator = torch.Generator().manual_seed(seed)
    down_RI, up_OR = torch.empty(rank, inputs), torch.empty(outputs, rank)
    for matrix, count in ((down_RI, inputs), (up_OR, rank)):
        bound = math.sqrt(6 / count)
        matrix.uniform_(-bound, bound, generator=generator)
    return up_OR, down_RI


class VeRALinear(ReparametrizedLinear):
    """x weight^T + outer * ((inner * (x down^T)) up^T) + bias; outer begins as zeros, so that the layer begins as what it
    was."""

    roles = {"weight": "matrix", "bias": "vector", "outer": "vector", "inner": "vector"}  # noqa: RUF012
    up_OR: Tensor
    down_RI: Tensor

    def __init__(self, linear: nn.Linear, up_OR: Tensor, down_RI: Tensor, inner: float) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        # views of what other layers have too; no checkpoint holds them, since they follow from the seed
        self.register_buffer("up_OR", up_OR[: self.out_features], persistent=False)
        self.register_buffer("down_RI", down_RI[:, : self.in_features], persistent=False)
        self.outer = nn.Parameter(torch.zeros(self.out_features, device=self.weight.device))
        self.inner = nn.Parameter(torch.full((len(down_RI),), inner, device=self.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        thin = F.linear(x, self.down_RI)
        made = F.linear(thin * self.inner.to(thin.dtype), self.up_OR)
        return F.linear(x, self.weight, self.bias) + made * self.outer.to(made.dtype)

    def flops(self) -> float:
        """Without gradients of matrices, none of which is trained."""
        return 4.0 * (self.weight.numel() + self.down_RI.numel() + self.up_OR.numel())

    def dense(self) -> Tensor:
        return low_rank(self.weight, self.outer[:, None] * self.up_OR, self.inner[:, None] * self.down_RI, 1.0)


class VeRA(Adapter):
    name: Literal["vera"] = "vera"
    rank: int = Field(256, gt=0, description="of the shared matrices; far more than LoRA's, for fewer numbers trained")
    inner: float = Field(0.1, gt=0, description="first value of the vector between the shared matrices")

    def builder(self, shapes: Mapping[str, tuple[int, int]]) -> Callable[[str, nn.Linear], nn.Linear]:
        outputs, inputs = map(
            max, zip(*(shape for name, shape in shapes.items() if self.applies_to(name)), strict=True)
        )
        up_OR, down_RI = shared_matrices(self.seed, self.rank, outputs, inputs)
        there: dict[torch.device, tuple[Tensor, Tensor]] = {}

        def build(name: str, linear: nn.Linear) -> nn.Linear:
            if not self.applies_to(name):
                return linear
            device = linear.weight.device
            if device not in there:  # once, so that layers share them there too
                there[device] = up_OR.to(device), down_RI.to(device)
            return VeRALinear(linear, *there[device], self.inner)

        return build

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """The layer as the only one of its model."""
        return self.builder({name: (linear.out_features, linear.in_features)})(name, linear)

    def adapter_state(self, layers: Mapping[str, ReparametrizedLinear]) -> AdapterState:
        mine = {name: layer for name, layer in layers.items() if isinstance(layer, VeRALinear)}
        parts = {name: {"outer": one.outer.detach(), "inner": one.inner.detach()} for name, one in mine.items()}
        ups, downs = [one.up_OR for one in mine.values()], [one.down_RI for one in mine.values()]
        shared = {"up": max(ups, key=len), "down": max(downs, key=lambda down: down.shape[1])}
        return AdapterState(self, parts, shared)

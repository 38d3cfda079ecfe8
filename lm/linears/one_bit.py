"""One bit while training: each product is made with the signs of the matrix, which itself is trained in full: BinaryConnect,
Courbariaux et al. 2015 (arXiv:1511.00363), algorithm 1.

Differs from the paper: signs are those of the weights alone and not drawn; the one magnitude of a matrix is the mean of those
that it begins with, so that a trained one is near to itself, where the paper has 1; learning rates are the optimizer's.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.linears.base import ReparametrizedLinear, dense_flops
from lm.linears.few_bits import CodedLinearMethod, straight_through
from lm.quantized.counts import Counts, pack


class OneBitLinear(ReparametrizedLinear):
    """x (h sign(W))^T + bias. A weight beyond h in magnitude has no gradient, and is brought back to it after each update."""

    most: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        weight_OI = linear.weight.detach()
        # that bfloat16 has; no checkpoint holds it: it follows from the weights that a run begins with
        most = weight_OI.abs().mean().clamp(min=1e-30).to(torch.bfloat16).to(weight_OI.dtype)
        self.register_buffer("most", most, persistent=False)
        self.weight = nn.Parameter(weight_OI.clamp(-most, most), linear.weight.requires_grad)
        self.bias = linear.bias

    def dense(self) -> Tensor:
        return straight_through(
            torch.where(self.weight >= 0, self.most, -self.most), self.weight.clamp(-self.most, self.most)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dense(), self.bias)

    def flops(self) -> float:
        return dense_flops(self.weight)

    @torch.no_grad()
    def packed(self) -> Counts:
        """The signs."""
        scales = (2 * self.most).expand(self.out_features, 1).to(torch.bfloat16)
        return pack(self.weight >= 0, scales.contiguous(), -scales / 2, bits=1, group=0)


class OneBit(CodedLinearMethod):
    name: Literal["one_bit"] = "one_bit"

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        return OneBitLinear(linear)

    def rewrites_weights(self) -> bool:
        return True

    @torch.no_grad()
    def after(self, step: int, layers: Mapping[str, Any]) -> None:
        for layer in layers.values():
            layer.weight.clamp_(-layer.most, layer.most)

"""Cuttlefish: full rank until the stable ranks of the matrices have levelled off, and low rank from there, at ranks that follow
from them.

Wang et al. 2023, arXiv:2305.02538, section 3 and algorithm 1: the stable rank ||W||_F^2 / ||W||_2^2 of every matrix is measured
every so many steps. A matrix is level when its measures have changed little for a while; when all are, each becomes the product
U sqrt(S) times sqrt(S) V^T of its largest singular values. Its rank is its stable rank times what the first one lacked of full
rank, since matrices begin random and full. A matrix whose factors would save too little stays whole, and training goes on with
new moments.

The two factors stand in the place of the matrix, one behind the other in its own O x I numbers, and what is left over is zeros
without gradients. So checkpoints have one shape throughout, and memory is that of full rank, which the first part of a run
needs in any case; products cost what factors cost.

Differs from the paper: measures come every so many steps in place of epochs, and are fractions, so that their mean change is
taken as it is, where the authors round ranks down and smooth them; the least rank is a share of the shorter side, as the
authors' code has it for Transformers, in place of the accumulative rank; which matrices stay whole is said by how many numbers
factors save, where it takes the time that a step took on the device, which would decide other bytes on each; there is no
Frobenius decay, and the rate warms up again over some steps behind the switch.

Letters: O outputs, I inputs, R rank, W measures looked at.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lm.config import ConfigError
from lm.linears.adapter import principal
from lm.linears.base import ReparametrizedLinear, SelectiveLinearMethod, dense_flops, is_a_part


def stable_rank(weight_OI: Tensor) -> Tensor:
    """||W||_F^2 / ||W||_2^2, a number from 1 to the shorter side; 0 of a matrix of zeros."""
    squares_M = torch.linalg.svdvals(weight_OI).square()
    return squares_M.sum() / squares_M[0].clamp(min=torch.finfo(squares_M.dtype).tiny)


def rank_of(now: float, scale: float, shorter: int, least: float) -> int:
    """R of a matrix of this stable rank, which counts `scale`; at least a share of the shorter side, at most all of it."""
    return max(1, min(shorter, max(math.ceil(now * scale), int(least * shorter))))


def has_plateaued(seen_W: Tensor, tolerance: float) -> bool:
    """Whether measures, the last of them all there, have changed by no more than this from one to the next on the mean."""
    return bool(
        seen_W.diff().abs().mean() <= tolerance
    )  # of one that is not there it is not a number, and less than nothing


class CuttlefishLinear(ReparametrizedLinear):
    """x weight^T + bias, and behind the switch x down^T up^T + bias of the factors that stand in weight's place."""

    def __init__(self, linear: nn.Linear, method: "Cuttlefish") -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias, self._method = linear.weight, linear.bias, method
        self.first = stable_rank(self.weight.detach())
        self.seen_W = torch.full((method.window + 1,), torch.nan)
        # rank: 0 while it is whole; switch: the step in which the layers of a model become factors, -1 while it is not known
        self.is_level, self.switch, self.rank = False, -1, 0

    def factors(self) -> tuple[Tensor, Tensor]:
        """(up_OR, down_RI) as they stand in weight's place."""
        up, down = self.out_features * self.rank, self.in_features * self.rank
        flat_up, flat_down, _ = self.weight.flatten().split([up, down, self.weight.numel() - up - down])
        return flat_up.view(self.out_features, self.rank), flat_down.view(self.rank, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        if not self.rank:
            return F.linear(x, self.weight, self.bias)
        up_OR, down_RI = self.factors()
        return F.linear(F.linear(x, down_RI), up_OR, self.bias)

    def flops(self) -> float:
        """FLOP of a dense product, or of the two of factors."""
        if not self.rank:
            return dense_flops(self.weight)
        return 6.0 * self.rank * (self.out_features + self.in_features)

    def dense(self) -> Tensor:
        if not self.rank:
            return self.weight
        up_OR, down_RI = self.factors()
        return up_OR @ down_RI

    def measure(self) -> None:
        """Take note of the stable rank now. What was level once stays so."""
        self.seen_W = torch.cat((self.seen_W[1:], stable_rank(self.weight.detach()).cpu()[None]))
        self.is_level = self.is_level or has_plateaued(self.seen_W, self._method.tolerance)

    @torch.no_grad()
    def begin(self, step: int, turn: bool) -> None:
        if is_a_part(self.weight):
            raise ConfigError("linear: cuttlefish needs whole matrices: set TOKENMILL_PARALLEL to exact or ddp")
        if step != self.switch:
            return
        shorter = min(self.out_features, self.in_features)
        scale = shorter / float(self.first) if self._method.scaled else 1.0
        rank = rank_of(float(stable_rank(self.weight)), scale, shorter, self._method.least)
        if rank * (self.out_features + self.in_features) * self._method.gain > self.weight.numel():
            return
        up_OR, down_RI = principal(self.weight, rank, 1.0)
        self.rank = rank
        flat = torch.cat((up_OR.flatten(), down_RI.flatten()))
        self.weight.zero_().view(-1)[: len(flat)] = flat

    def state(self) -> dict[str, Tensor]:
        whole = torch.tensor([int(self.is_level), self.switch, self.rank])
        return {"first": self.first, "seen": self.seen_W, "whole": whole}

    def load(self, state: dict[str, Tensor]) -> None:
        self.first, self.seen_W = state["first"].to(self.first.device), state["seen"].cpu().clone()
        is_level, self.switch, self.rank = map(int, state["whole"].tolist())
        self.is_level = bool(is_level)


class Cuttlefish(SelectiveLinearMethod):
    name: Literal["cuttlefish"] = "cuttlefish"
    every: int = Field(5, gt=0, description="steps from one measure of stable ranks to the next; the paper: an epoch")
    window: int = Field(5, gt=0, description="changes of a measure that are looked at; the authors: 5 for Transformers")
    tolerance: float = Field(0.1, ge=0, description="mean change of a stable rank, in ranks, up to which it is level")
    scaled: bool = Field(
        True, description="a stable rank counts as a share of the first one; or as it is, which is far less"
    )
    least: float = Field(
        0.25, ge=0, le=1, description="least rank over the shorter side; the authors: 0.5 for Transformers"
    )
    gain: float = Field(
        1.5,
        ge=1,
        description="how many times fewer numbers factors must have, or a matrix stays whole; of time in the paper",
    )
    warmup: int = Field(5, ge=0, description="steps over which the rate comes back behind the switch; the paper: 0")

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """A layer that becomes factors, or the layer itself where it is not meant."""
        if not self.applies_to(name):
            return linear
        return CuttlefishLinear(linear, self)

    @torch.no_grad()
    def after(self, step: int, layers: Mapping[str, Any]) -> None:
        mine = list(layers.values())
        if (step + 1) % self.every or any(layer.switch >= 0 for layer in mine):
            return
        for layer in mine:
            layer.measure()
        if all(layer.is_level for layer in mine):
            for layer in mine:
                layer.switch = step + 1

    def rewrites_weights(self) -> bool:
        return True

    def packs(self) -> bool:
        return True

    def repacks(self) -> bool:
        return True

    def uncompiled(self) -> bool:
        return True

    def clears(self, step: int, layers: Mapping[str, Any]) -> float | None:
        return 1.0 if any(layer.switch == step for layer in layers.values()) else None

    def factor(self, step: int, layers: Mapping[str, Any]) -> float:
        """Part of the rate: up by equal parts behind the switch, without a step at 0."""
        switch = max((layer.switch for layer in layers.values()), default=-1)
        return min(1.0, (step - switch + 1) / (self.warmup + 1)) if 0 <= switch <= step else 1.0

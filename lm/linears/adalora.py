"""AdaLoRA: ranks by importance. Layers begin with more directions than they may keep in all; those that matter least go.

Zhang et al. 2023, arXiv:2303.10512, section 3: W + s P diag(l) Q. What a number of P, l or Q matters is |w dL/dw|, smoothed
over steps, times the smoothed distance from that; a direction's score is that of its l and the means of its column of P and
row of Q. From step `cut_from` to step `cut_until` the number of directions of all layers together falls by a cube, and the l of
those beyond it become 0; behind it those that are gone stay so. A layer may keep all of its directions, or none. P and Q are
held near orthonormal by a share of the loss.

Differs from the paper: `cut_until` is a step in place of a share of the run. First values, scale and the mean over layers in
the loss are as the library peft has them, whose steps these are.

Letters: O outputs, I inputs, R directions.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from lm.config import ConfigError
from lm.linears.adapter import Adapter, AdapterState, generator_of, low_rank, scale_of
from lm.linears.base import ReparametrizedLinear
from lm.linears.lora import LoRA

# Of the first values of either thin matrix
SPREAD = 0.02


def budget(step: int, first: int, last: int, begin: int, end: int) -> int:
    """Directions of all layers together after a step: `first` up to step `begin`, `last` from step `end` on."""
    if step <= begin:
        return first
    left = max(0.0, 1 - (step - begin) / (end - begin))
    return int((first - last) * left**3 + last)


def orthogonality_error(matrix_RN: Tensor) -> Tensor:
    """||M M^T - I||_F: how far R rows are from orthonormal."""
    return torch.linalg.matrix_norm(matrix_RN @ matrix_RN.T - torch.eye(len(matrix_RN), device=matrix_RN.device))


class AdaLoRALinear(ReparametrizedLinear):
    """x weight^T + scale * ((values * (x down^T)) up^T) + bias; values begin as zeros, so that the layer begins as what it
    was."""

    roles = {"weight": "matrix", "bias": "vector", "down": "matrix", "up": "matrix", "values": "vector"}  # noqa: RUF012
    kept_R: Tensor  # which directions are left for good; all of them up to the last cut

    def __init__(self, linear: nn.Linear, rank: int, scale: float, penalty: float, generator: torch.Generator) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias, self.scale, self._share = linear.weight, linear.bias, scale, penalty
        device = self.weight.device
        down_RI = torch.empty(rank, self.in_features).normal_(0, SPREAD, generator=generator)
        up_OR = torch.empty(self.out_features, rank).normal_(0, SPREAD, generator=generator)
        self.down, self.up = nn.Parameter(down_RI.to(device)), nn.Parameter(up_OR.to(device))
        self.values = nn.Parameter(torch.zeros(rank, device=device))
        self.register_buffer("kept_R", torch.ones(rank, dtype=torch.bool, device=device), persistent=False)
        for name, weight in self._thin().items():
            for kind in ("sensitivity", "uncertainty"):
                self.register_buffer(f"{kind}_{name}", torch.zeros_like(weight.detach()), persistent=False)

    def _thin(self) -> dict[str, nn.Parameter]:
        return {"down": self.down, "up": self.up, "values": self.values}

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        made = F.linear(rows, self.weight, self.bias)
        thin = F.linear(rows, self.down * self.values[:, None])
        return made.addmm_(thin, self.up.T.to(made.dtype), alpha=self.scale).view(*x.shape[:-1], self.out_features)

    def flops(self) -> float:
        """Without the gradient of the matrix that stays."""
        return 4.0 * self.weight.numel() + 6.0 * (self.down.numel() + self.up.numel())

    def remaining_values(self) -> Tensor:
        """values_R, zeros for directions that have gone for good: a mean over steps has some of them from before."""
        return self.values * self.kept_R

    def dense(self) -> Tensor:
        return low_rank(self.weight, self.up, self.down * self.remaining_values()[:, None], self.scale)

    def penalty(self) -> Tensor | None:
        if not self._share:
            return None
        with torch.autocast(self.down.device.type, enabled=False):
            return self._share * (orthogonality_error(self.down) + orthogonality_error(self.up.T))

    def update_sensitivity(self, beta1: float, beta2: float) -> None:
        """Take note of what the gradients of a step say."""
        for name, weight in self._thin().items():
            if type(weight.grad) is not Tensor:  # none any more, or a rank's part
                raise ConfigError(
                    "linear: adalora needs whole gradients after a step: set TOKENMILL_PARALLEL to exact or ddp"
                )
            now = (weight * weight.grad).abs()
            sensitivity, uncertainty = (self.get_buffer(f"{kind}_{name}") for kind in ("sensitivity", "uncertainty"))
            sensitivity.mul_(beta1).add_((1 - beta1) * now)
            uncertainty.mul_(beta2).add_((1 - beta2) * (now - sensitivity).abs())

    def scores(self) -> Tensor:
        """scores_R of the directions."""
        kinds = ("sensitivity", "uncertainty")
        found = {n: torch.stack([self.get_buffer(f"{kind}_{n}") for kind in kinds]).prod(0) for n in self._thin()}
        return found["values"] + found["down"].mean(1) + found["up"].mean(0)

    def state(self) -> dict[str, Tensor]:
        return dict(self.named_buffers())

    def load(self, state: dict[str, Tensor]) -> None:
        for name, buffer in self.named_buffers():
            buffer.copy_(state[name])


class AdaLoRA(Adapter):
    name: Literal["adalora"] = "adalora"
    rank: int = Field(8, gt=0, description="directions that a layer keeps on the mean of all")
    first_rank: int = Field(
        12, gt=0, description="directions of each at first; the paper: half as many again as it keeps"
    )
    alpha: float = Field(16.0, gt=0, description="the product counts alpha / first_rank")
    cut_from: int = Field(0, ge=0, description="step from which on directions go")
    cut_until: int = Field(
        100, gt=0, description="step in which the last of them go; the paper: well before the end of the run"
    )
    cut_every: int = Field(1, gt=0, description="steps from one cut to the next; the paper: 1 to 100")
    beta1: float = Field(0.85, gt=0, lt=1, description="share that the past has in what a number matters")
    beta2: float = Field(0.85, gt=0, lt=1, description="share that the past has in the distance from it")
    orthogonality: float = Field(
        0.5, ge=0, description="what the distance of the thin matrices from it counts in the loss"
    )

    @model_validator(mode="after")
    def _falls(self) -> "AdaLoRA":
        if self.first_rank < self.rank:
            raise ValueError(f"first_rank: {self.first_rank} is less than the rank of {self.rank} that is kept")
        if self.cut_until <= self.cut_from:
            raise ValueError(f"cut_until: {self.cut_until} is not after cut_from, {self.cut_from}")
        return self

    def builder(self, shapes: Mapping[str, tuple[int, int]]) -> "Builder":
        return Builder(self, sum(map(self.applies_to, shapes)))

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """The layer as the only one of its model."""
        return Builder(self, 1)(name, linear)

    def rewrites_weights(self) -> bool:
        return True

    @torch.no_grad()
    def after(self, step: int, layers: Mapping[str, ReparametrizedLinear]) -> None:
        mine = [layer for layer in layers.values() if isinstance(layer, AdaLoRALinear)]
        if step < self.cut_until:
            for layer in mine:
                layer.update_sensitivity(self.beta1, self.beta2)
        if step == self.cut_until or (self.cut_from < step < self.cut_until and step % self.cut_every == 0):
            first, last = self.first_rank * len(mine), self.rank * len(mine)
            cut = first - budget(step, first, last, self.cut_from, self.cut_until)
            scores = [layer.scores() for layer in mine]
            highest = torch.cat(scores).kthvalue(cut).values if cut else -torch.inf
            for layer, scores_R in zip(mine, scores, strict=True):
                kept_R = scores_R > highest
                layer.values.masked_fill_(~kept_R, 0.0)
                if step == self.cut_until:  # before it, a direction may come back
                    layer.kept_R.copy_(kept_R)
        elif step > self.cut_until:
            for layer in mine:
                layer.values.masked_fill_(~layer.kept_R, 0.0)

    def adapter_state(self, layers: Mapping[str, ReparametrizedLinear]) -> AdapterState:
        """A LoRA of what is left of each layer, without those of which nothing is."""
        parts = {}
        for name, layer in layers.items():
            if isinstance(layer, AdaLoRALinear) and (left_R := layer.remaining_values().detach() != 0).any():
                down_RI = (layer.down * layer.remaining_values()[:, None]).detach()[left_R]
                # a LoRA counts alpha over its own rank
                share = layer.scale / scale_of(self.alpha, len(down_RI), "rank")
                parts[name] = {"down": down_RI, "up": share * layer.up.detach()[:, left_R]}
        return AdapterState(LoRA(rank=self.rank, alpha=self.alpha), parts)


class Builder:
    """The layers of a model, so many of which are adapted."""

    def __init__(self, method: AdaLoRA, adapted: int) -> None:
        self._method, self._penalty = method, method.orthogonality / (2 * max(adapted, 1))

    def __call__(self, name: str, linear: nn.Linear) -> nn.Linear:
        method = self._method
        if not method.applies_to(name):
            return linear
        scale, generator = method.alpha / method.first_rank, generator_of(method.seed, name)
        return AdaLoRALinear(linear, method.first_rank, scale, self._penalty, generator)

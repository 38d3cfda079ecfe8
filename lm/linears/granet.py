"""GraNet: masks that thin out during training, and whose weights are replaced: gradual magnitude pruning with regeneration.

Liu et al. 2021, arXiv:2106.10404: the density of all matrices together falls from a first to a last one by a cube, every so
many steps, and what goes is of smallest magnitude over all of them. After each of these prunings a share of what is left in
each matrix goes too, of smallest magnitude, and as many come back where the gradient is largest; a weight that went longer ago
begins at 0. The share falls by half a cosine. First masks are drawn, denser where sides are short (ER). With one density for
first and last it is RigL (Evci et al. 2020, arXiv:1911.11134), whose masks change alone.

Differs from the paper: times are steps in place of shares of a run, and the cosine ends at 0 in `regrow_until`, where the
authors' ends at 0.005 with the run; gradients are those of all weights in every step, as in their code, so that products are
made densely and norms count them, and the moments of weights that are not there go on, which their code has so for Adam alone.

Letters: O outputs, I inputs, W all weights of all matrices.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lm.config import ConfigError
from lm.linears.adapter import generator_of
from lm.linears.base import SelectiveLinearMethod
from lm.linears.masked import MaskedLinear, densities_by_sides, random_mask


def density_at(step: int, first: float, last: float, begin: int, end: int) -> float:
    """Density of all matrices together behind so many steps."""
    left = min(1.0, max(0.0, (end - step) / (end - begin)))
    return last + (first - last) * left**3


def thinned(weights: Sequence[Tensor], masks: Sequence[Tensor], density: float) -> list[Tensor]:
    """masks_OI of the weights of largest magnitude over all matrices, of those that the masks have, so many of all."""
    scores_W = torch.cat(
        [torch.where(mask, weight.abs(), -1.0).flatten() for weight, mask in zip(weights, masks, strict=True)]
    )
    kept_W = scores_W.argsort(descending=True, stable=True)[: int(density * len(scores_W))]
    all_W = torch.zeros_like(scores_W, dtype=torch.bool).index_fill_(0, kept_W, True) & (scores_W >= 0)
    parts = all_W.split([weight.numel() for weight in weights])
    return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]


def regrown(weight_OI: Tensor, grad_OI: Tensor, mask_OI: Tensor, share: float) -> Tensor:
    """mask_OI in which this share of the weights, rounded up, of smallest magnitude, has gone, and as many of largest gradient
    have come of those that are then outside."""
    there = int(mask_OI.sum())
    count = math.ceil(share * there)
    by_size = torch.where(mask_OI, weight_OI.abs(), torch.inf).flatten().argsort(stable=True)
    left = mask_OI.flatten().index_fill(0, by_size[:count], False)
    by_grad = torch.where(left, -1.0, grad_OI.abs().flatten()).argsort(descending=True, stable=True)
    return left.index_fill(0, by_grad[:count], True).view_as(mask_OI)


class GraNetLinear(MaskedLinear):
    """x W^T + bias of the weights that are there; gradients are made of all."""

    mask_OI: Tensor

    def __init__(self, linear: nn.Linear, density: float, generator: torch.Generator) -> None:
        super().__init__(linear)
        mask_OI = random_mask(self.out_features, self.in_features, density, generator).to(self.weight.device)
        self.register_buffer("mask_OI", mask_OI, persistent=False)
        self.weight = nn.Parameter(self.weight.detach() * mask_OI, self.weight.requires_grad)

    def mask(self) -> Tensor:
        return self.mask_OI

    def dense(self) -> Tensor:
        return self.straight(super().dense())

    def gradient(self) -> Tensor:
        """dweight_OI of the step. Raises ConfigError where it has gone, or a rank has a part of it."""
        if type(self.weight.grad) is not Tensor:
            raise ConfigError(
                "linear: granet needs whole gradients after a step: set TOKENMILL_PARALLEL to exact or ddp"
            )
        return self.weight.grad


class GraNet(SelectiveLinearMethod):
    name: Literal["granet"] = "granet"
    density: float = Field(0.2, gt=0, le=1, description="share of the weights of all matrices that is left at the end")
    first_density: float = Field(0.5, gt=0, le=1, description="and that a run begins with; the paper: 0.5, or 1")
    prune_from: int = Field(0, ge=0, description="step from which masks change")
    prune_until: int = Field(80, gt=0, description="step at which the last density is reached")
    every: int = Field(10, gt=0, description="steps from one change to the next; the paper: some thousand")
    regrow: float = Field(0.5, ge=0, le=1, description="share of each matrix that is replaced at a change, at first")
    regrow_until: int = Field(100, gt=0, description="step from which masks stay; the paper: the end of the run")
    seed: int = Field(0, ge=0, description="of the first masks")

    @model_validator(mode="after")
    def _fits(self) -> "GraNet":
        if self.first_density < self.density:
            raise ValueError(
                f"first_density: {self.first_density:g} is less than the density of {self.density:g} at the end"
            )
        if self.prune_until <= self.prune_from:
            raise ValueError(f"prune_until: {self.prune_until} is not after prune_from, {self.prune_from}")
        if self.regrow_until < self.prune_until:
            raise ValueError(f"regrow_until: {self.regrow_until} is before prune_until, {self.prune_until}")
        last = self.regrow_until // self.every * self.every
        if last < self.prune_until and self.density < self.first_density:
            raise ValueError(
                f"every: masks change for the last time at step {last}, before prune_until, {self.prune_until}, so that the "
                f"density is not reached: set regrow_until to {last + self.every} or more"
            )
        return self

    def share_at(self, step: int) -> float:
        """Share of a matrix that is replaced behind so many steps."""
        return self.regrow / 2 * (1 + math.cos(math.pi * min(1.0, step / self.regrow_until)))

    def builder(self, shapes: Mapping[str, tuple[int, int]]) -> Callable[[str, nn.Linear], nn.Linear]:
        mine = {name: shape for name, shape in shapes.items() if self.applies_to(name)}
        return partial(self._build, densities_by_sides(mine, self.first_density))

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """The layer as the only one of its model."""
        return self.builder({name: (linear.out_features, linear.in_features)})(name, linear)

    def _build(self, densities: Mapping[str, float], name: str, linear: nn.Linear) -> nn.Linear:
        if name not in densities:
            return linear
        return GraNetLinear(linear, densities[name], generator_of(self.seed, name))

    def rewrites_weights(self) -> bool:
        return True

    @torch.no_grad()
    def after(self, step: int, layers: Mapping[str, Any]) -> None:
        done, mine = step + 1, list(layers.values())
        grads = [layer.gradient() for layer in mine]
        for layer in mine:
            layer.weight.mul_(layer.mask_OI)
        if done < self.prune_from or done % self.every or done > self.regrow_until:
            return
        density = density_at(done, self.first_density, self.density, self.prune_from, self.prune_until)
        masks = thinned([layer.weight for layer in mine], [layer.mask_OI for layer in mine], density)
        for layer, grad_OI, mask_OI in zip(mine, grads, masks, strict=True):
            layer.mask_OI.copy_(regrown(layer.weight, grad_OI, mask_OI, self.share_at(done)))
            layer.weight.mul_(layer.mask_OI)

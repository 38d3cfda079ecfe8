"""Sparse while training: products are made without some weights of the matrix, which begin as zeros and stay so.

`random`: a mask that is drawn once, of the same density in every matrix, or of more where sides are short (Liu et al. 2022,
arXiv:2202.02643; densities by sides: ER of Mocanu et al. 2018, arXiv:1707.04780, at most 1, as the code of RigL caps them).
With `dense_from` it is lifted, and zeros learn: sparse pretraining, dense after it (SPDF: Thangarasa et al. 2023,
arXiv:2303.10464).

`n_m`: of each M weights in a row along the input the N of largest magnitude, chosen anew at each product. Gradients go
straight through to all weights, and those left out decay: their gradient is g + pull W (SR-STE: Zhou et al. 2021,
arXiv:2102.04010). Or those left out count a share that falls to 0, in the product and so in their gradients (MdGf-Linear of
Bambhaniya et al. 2024, arXiv:2402.04744).

Differs from the papers: products are made densely, so that FLOP, memory and time are those of dense training; times are steps
in place of shares of a run; SPDF is dense in fine-tuning, which a stage that follows is in any case; all matrices of the
blocks are masked unless `matrices` says which.

Letters: O outputs, I inputs, G groups of M columns in a row.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from lm.config import ConfigError
from lm.linears.adapter import generator_of
from lm.linears.base import ReparametrizedLinear, SelectiveLinearMethod, dense_flops, is_a_part


def random_mask(rows: int, columns: int, density: float, generator: torch.Generator) -> Tensor:
    """mask_OI that lets so large a share through, rounded, and one weight at least."""
    places = torch.randperm(rows * columns, generator=generator)[: max(1, round(density * rows * columns))]
    return torch.zeros(rows * columns, dtype=torch.bool).index_fill_(0, places, True).view(rows, columns)


def largest_of(weight_OI: Tensor, kept: int, group: int) -> Tensor:
    """mask_OI of the `kept` of largest magnitude in each group of a row; of equal ones the first."""
    rows, columns = weight_OI.shape
    order_OGM = weight_OI.detach().abs().view(rows, -1, group).argsort(dim=2, descending=True, stable=True)
    return (order_OGM.argsort(2) < kept).view(rows, columns)


def densities_by_sides(shapes: Mapping[str, tuple[int, int]], density: float) -> dict[str, float]:
    """Density of each matrix, in proportion to (O + I) / (O I), that all together have `density`. One that would have more than
    1 is dense, and the others share what is left."""
    weights = {name: rows * columns for name, (rows, columns) in shapes.items()}
    raw = {name: sum(shapes[name]) / weights[name] for name in shapes}
    found: dict[str, float] = {}
    while open_ := [name for name in shapes if name not in found]:
        left = density * sum(weights.values()) - sum(weights[name] for name in found)
        factor = left / sum(raw[name] * weights[name] for name in open_)
        most = max(raw[name] for name in open_)
        if factor * most <= 1:
            return found | {name: factor * raw[name] for name in open_}
        found |= {name: 1.0 for name in open_ if raw[name] == most}
    return found


class MaskedLinear(ReparametrizedLinear):
    """x W'^T + bias, W' being the weights that the mask lets through, and `outside` times the others."""

    outside: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self.register_buffer("outside", torch.zeros((), device=self.weight.device), persistent=False)

    def mask(self) -> Tensor:
        """mask_OI of what is let through."""
        raise NotImplementedError

    def straight(self, made_OI: Tensor) -> Tensor:
        """The made matrix to the bit, through which every weight has the gradient of its place."""
        return made_OI.detach() + (self.weight - self.weight.detach())

    def dense(self) -> Tensor:
        return torch.where(self.mask(), self.weight, self.outside * self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dense(), self.bias)

    def flops(self) -> float:
        """FLOP of a dense product: what is left out is multiplied as zeros."""
        return dense_flops(self.weight)

    def needs_whole(self, what: str) -> None:
        """Raises ConfigError where a rank has a part of the matrix."""
        if is_a_part(self.weight):
            raise ConfigError(
                f"linear.{what}: masked needs whole matrices for it: set TOKENMILL_PARALLEL to exact or ddp"
            )

    def state(self) -> dict[str, Tensor]:
        return dict(self.named_buffers())

    def load(self, state: dict[str, Tensor]) -> None:
        for name, buffer in self.named_buffers():
            buffer.copy_(state[name])


class RandomLinear(MaskedLinear):
    """A mask that is drawn once. What it leaves out is zeros from the beginning."""

    drawn_OI: Tensor

    def __init__(self, linear: nn.Linear, method: "Masked", density: float, generator: torch.Generator) -> None:
        super().__init__(linear)
        self._method = method
        mask_OI = random_mask(self.out_features, self.in_features, density, generator).to(self.weight.device)
        self.register_buffer("drawn_OI", mask_OI, persistent=False)
        self.weight = nn.Parameter(self.weight.detach() * mask_OI, self.weight.requires_grad)

    def mask(self) -> Tensor:
        return self.drawn_OI

    def begin(self, step: int, turn: bool) -> None:
        if self._method.dense_from:
            self.needs_whole("dense_from")
            if step == self._method.dense_from:
                self.outside.fill_(1.0)

    @torch.no_grad()
    def clear(self) -> None:
        """Set to 0 what an update has put where nothing is let through, as one of whole matrices does."""
        self.weight.copy_(self.dense())


class GroupedLinear(MaskedLinear):
    """The N of largest magnitude of each M weights."""

    def __init__(self, linear: nn.Linear, method: "Masked") -> None:
        super().__init__(linear)
        self._method = method

    def mask(self) -> Tensor:
        return largest_of(self.weight, self._method.kept, self._method.group)

    def dense(self) -> Tensor:
        made_OI = super().dense()
        return made_OI if self._method.gradient == "decaying" else self.straight(made_OI)

    def begin(self, step: int, turn: bool) -> None:
        if self._method.gradient == "decaying":
            self.outside.fill_(self._method.share_outside(step))
        elif self._method.pull:
            self.needs_whole("pull")

    def penalty(self) -> Tensor | None:
        if self._method.gradient == "decaying" or not self._method.pull:
            return None
        return self._method.pull / 2 * self.weight.masked_fill(self.mask(), 0.0).square().sum()


class Masked(SelectiveLinearMethod):
    name: Literal["masked"] = "masked"
    pattern: Literal["random", "n_m"] = Field("random", description="drawn once, or the largest of each `group`")
    density: float = Field(0.5, gt=0, le=1, description="random: share of the weights that is let through")
    layout: Literal["uniform", "by_sides"] = Field(
        "uniform", description="random: every matrix has the density, or shorter ones more of it (ER)"
    )
    seed: int = Field(0, ge=0, description="random: of the masks")
    dense_from: int = Field(0, ge=0, description="random: step from which all weights are trained; 0: never")
    kept: int = Field(2, gt=0, description="n_m: N, of each group")
    group: int = Field(4, gt=1, description="n_m: M, columns in a group")
    gradient: Literal["straight", "decaying"] = Field(
        "straight", description="n_m: all weights have that of the product, or those left out less and less of it"
    )
    pull: float = Field(0.0002, ge=0, description="n_m, straight: decay of what is left out; 0: the plain estimator")
    decay_from: int = Field(0, ge=0, description="n_m, decaying: step up to which nothing is left out")
    decay_until: int = Field(100, gt=0, description="n_m, decaying: step from which it is left out wholly")

    @model_validator(mode="after")
    def _fits(self) -> "Masked":
        if self.kept >= self.group:
            raise ValueError(f"kept: {self.kept} of a group of {self.group} leaves nothing out: lower it")
        if self.decay_until <= self.decay_from:
            raise ValueError(f"decay_until: {self.decay_until} is not after decay_from, {self.decay_from}")
        if self.dense_from and self.pattern != "random":
            raise ValueError("dense_from: is of pattern random; n_m ends sparse")
        return self

    def share_outside(self, step: int) -> float:
        """What weights left out count at a step: from 1 to 0 by a line."""
        return min(1.0, max(0.0, (self.decay_until - step) / (self.decay_until - self.decay_from)))

    def builder(self, shapes: Mapping[str, tuple[int, int]]) -> Callable[[str, nn.Linear], nn.Linear]:
        mine = {name: shape for name, shape in shapes.items() if self.applies_to(name)}
        if self.pattern == "n_m":
            for name, (_, columns) in mine.items():
                if columns % self.group:
                    raise ConfigError(
                        f"linear.group: the {columns} inputs of {name} are no whole groups of {self.group}: take a divisor"
                    )
        by_sides = self.layout == "by_sides"
        densities = densities_by_sides(mine, self.density) if by_sides else dict.fromkeys(mine, self.density)
        return partial(self._build, densities)

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """The layer as the only one of its model."""
        return self.builder({name: (linear.out_features, linear.in_features)})(name, linear)

    def _build(self, densities: Mapping[str, float], name: str, linear: nn.Linear) -> nn.Linear:
        if name not in densities:
            return linear
        if self.pattern == "n_m":
            return GroupedLinear(linear, self)
        return RandomLinear(linear, self, densities[name], generator_of(self.seed, name))

    def rewrites_weights(self) -> bool:
        return self.dense_from > 0

    def after(self, step: int, layers: Mapping[str, Any]) -> None:
        if step < self.dense_from:
            for layer in layers.values():
                layer.clear()

"""ReLoRA: a low-rank product beside each matrix is trained, added to it every so many steps, and begun anew, so that the sum of
what was learned is of high rank.

Lialin et al. 2023, arXiv:2307.05695, section 3: at each restart W <- W + s B A, A is drawn again and B is zeros; of the moments
of A and B all but those of largest magnitude are cleared, or Adam would go on into the old subspace; and the rate of the whole
model begins at 0 and warms up to the schedule over some steps (a jagged schedule). Embeddings, norms and biases are trained
throughout.

Differs from the paper: by default restarts come every 50 steps, with a warm-up of 10, for runs of some hundred, where its own
have 2,000 and more; no part of the run trains W itself first: a run that begins from a trained model has that behind it; A is
drawn as torch draws a Linear layer, which is Kaiming's with a = sqrt(5); moments are cleared matrix by matrix, and of an entry
either both or neither, by the magnitude of its mean gradient, where the paper clears each moment by its own magnitudes: a mean
whose square is gone would be divided by next to 0; where weights are averaged, the mean of A and B begins anew with them, since
older ones are of other products.

Letters: O outputs, I inputs, R rank.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lm.config import ConfigError
from lm.linears.adapter import AdaptedLinear, generator_of
from lm.linears.base import ReparametrizedLinear, SelectiveLinearMethod, is_a_part


class ReLoRALinear(AdaptedLinear):
    """x weight^T + scale * x down^T up^T + bias, whose product is added to the weight at each restart."""

    def __init__(self, linear: nn.Linear, method: "ReLoRA", name: str) -> None:
        with torch.device("meta"):
            nn.Linear.__init__(self, linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias, self.scale = linear.weight, linear.bias, method.alpha / method.rank
        self.weight.requires_grad_(False)
        self._method, self._name = method, name
        device = self.weight.device
        self.down = nn.Parameter(self.drawn(0).to(device))
        self.up = nn.Parameter(torch.zeros(self.out_features, method.rank, device=device))

    def drawn(self, step: int) -> Tensor:
        """down_RI as it begins at a step."""
        bound = 1 / math.sqrt(self.in_features)
        generator = generator_of(self._method.seed, f"{self._name} {step}")
        return torch.empty(self._method.rank, self.in_features).uniform_(-bound, bound, generator=generator)

    @torch.no_grad()
    def begin(self, step: int, turn: bool) -> None:
        if is_a_part(self.weight):
            raise ConfigError("linear: relora needs whole matrices: set TOKENMILL_PARALLEL to exact or ddp")
        if self._method.restarts(step):
            self.weight.copy_(self.dense())
            self.up.zero_()
            self.down.copy_(self.drawn(step))

    def state(self) -> dict[str, Tensor]:
        """The matrix, which no optimizer has, and which restarts change."""
        return {"weight": self.weight.detach()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        self.weight.copy_(state["weight"])


class ReLoRA(SelectiveLinearMethod):
    name: Literal["relora"] = "relora"
    rank: int = Field(8, gt=0, description="of the product; the paper: 128 for widths of 512 to 2,048")
    alpha: float = Field(16.0, gt=0, description="the product counts alpha / rank")
    every: int = Field(50, gt=0, description="steps from one restart to the next; the paper: 2,000 and 5,000")
    cleared: float = Field(
        0.99,
        ge=0,
        le=1,
        description="share of each matrix's entries, those of smallest mean gradient, whose moments a restart clears",
    )
    warmup: int = Field(
        10, ge=0, description="steps over which the rate comes back after a restart; the paper: 50 to 100"
    )
    seed: int = Field(0, ge=0, description="of the first values, and of those of every restart")

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """The layer with a product beside it, or the layer itself where it is not meant."""
        if not self.applies_to(name):
            return linear
        return ReLoRALinear(linear, self, name)

    def restarts(self, step: int) -> bool:
        return step > 0 and step % self.every == 0

    def rewrites_weights(self) -> bool:
        return True

    def clears(self, step: int, layers: Mapping[str, ReparametrizedLinear]) -> float | None:
        return self.cleared if self.restarts(step) else None

    def factor(self, step: int, layers: Mapping[str, ReparametrizedLinear]) -> float:
        """Part of the rate: up by equal parts behind a restart, without a step at 0."""
        return min(1.0, (step % self.every + 1) / (self.warmup + 1)) if step >= self.every else 1.0

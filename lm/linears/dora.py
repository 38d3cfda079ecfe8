"""DoRA: a matrix as the lengths of its rows and their directions; the lengths are trained, and LoRA turns the directions.

Liu et al. 2024, arXiv:2402.09353. The length that the direction is divided by takes no part in gradients, as the paper's
section 4.3 has it to save memory. Differs from the paper: its letters take a length of each column of a d x k matrix; its code
and the library peft, as here, one of each row of weight_OI, an output's.

Letters: O outputs, I inputs, R rank.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.linears.adapter import AdaptedLinear, LowRank, low_rank

# Of a row of zeros, so that it is divided by something
SHORTEST = 1e-30


def lengths(weight_OI: Tensor) -> Tensor:
    """lengths_O, ||V||_c of the paper: of each row, above 0."""
    return torch.linalg.vector_norm(weight_OI, dim=1).clamp(min=SHORTEST)


def resized(weight_OI: Tensor, magnitude_O: Tensor) -> Tensor:
    """W' = m V / ||V||_c (equation 5), V being the matrix with the thin product added."""
    return weight_OI * (magnitude_O / lengths(weight_OI))[:, None]


class DoRALinear(AdaptedLinear):
    """(x weight^T + scale * x down^T up^T) * magnitude / length + bias, length being that of the rows of what x is multiplied
    with; magnitude begins as it, so that the layer begins as what it was."""

    roles = {**AdaptedLinear.roles, "magnitude": "vector"}  # noqa: RUF012

    def __init__(self, linear: nn.Linear, method: LowRank, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__(linear, method, rank, scale, generator)
        self.magnitude = nn.Parameter(self.length().clone())

    def length(self) -> Tensor:
        """length_O now, in fp32 and without gradients."""
        with torch.autocast(self.up.device.type, enabled=False):
            return lengths(low_rank(self.weight.detach(), self.up.detach(), self.down.detach(), self.scale))

    def both(self, x_TI: Tensor) -> Tensor:
        turned_TO = super().both(x_TI)
        made_TO = turned_TO * (self.magnitude / self.length()).to(turned_TO.dtype)
        return made_TO if self.bias is None else made_TO + self.bias.to(made_TO.dtype)

    def base(self, x_TI: Tensor) -> Tensor:
        return F.linear(x_TI, self.weight)

    def dense(self) -> Tensor:
        return resized(super().dense(), self.magnitude)

    def parts(self) -> dict[str, Tensor]:
        return {**super().parts(), "magnitude": self.magnitude.detach()}


class DoRA(LowRank):
    name: Literal["dora"] = "dora"

    def adapted(self, linear: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> AdaptedLinear:
        return DoRALinear(linear, self, rank, scale, generator)

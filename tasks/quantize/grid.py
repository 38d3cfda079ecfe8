"""Equal steps over the range of a group of weights: what the methods of few bits share.

Letters: O outputs (rows), I inputs (columns), N groups of columns in a row, G columns of a group.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import Config
from lm.linears.few_bits import least_steps
from lm.quantized.base import check_matrix
from lm.quantized.counts import Counts, pack

Bits = Literal[2, 3, 4, 8]


class Grid(Config):
    """Parameters of every method that counts steps of a group. bytes_a_column: what it keeps beside them."""

    needs_calibration: ClassVar[bool] = True
    bytes_a_column: ClassVar[int] = 0
    bits: Bits = 4
    group: int = Field(32, gt=0, description="columns that share a scale of 16 bits, and a minimum of 16 more")
    symmetric: bool = Field(
        False,
        description="steps either way of 0, without a minimum: 16 bits a group less, and what vLLM's kernels read",
    )


def grouped(weight_OI: Tensor, group: int) -> Tensor:
    """groups_ONG in float64; a shorter last group is filled with its last entry, which leaves its range alone."""
    weight = weight_OI.double()
    filled = torch.cat((weight, weight[:, -1:].expand(-1, -weight.shape[1] % group)), dim=1)
    return filled.view(len(weight), -1, group)


def fit(groups_ONG: Tensor, bits: int, symmetric: bool = False) -> tuple[Tensor | None, Tensor]:
    """(minima_ON, scales_ON) in bfloat16, which has float32's range: code 0 and the step, so that the last code is the maximum;
    symmetric: no minima, and the least step that cuts neither end, of which the lower has one code more.

    The minimum is rounded down, so that no entry lies below it; a symmetric step and one of 8 bits up, since 255 of one that is
    2^-9 too short end half a step below the maximum. Of 4 bits they end 0.03 of a step below.
    """
    if symmetric:
        minima, steps = None, least_steps(groups_ONG, bits)
    else:
        minima = _rounded_down(groups_ONG.amin(2))
        steps = (groups_ONG.amax(2) - minima.double()) / (2**bits - 1)
    return minima, -_rounded_down(-steps) if bits == 8 or symmetric else steps.to(torch.bfloat16)


def counts_of(groups_ONG: Tensor, minima_ON: Tensor | None, scales_ON: Tensor, bits: int) -> Tensor:
    """How many of the stored steps each entry is from code 0, in float64: a code but for its rounding."""
    counts_ONG = groups_ONG if minima_ON is None else groups_ONG - minima_ON.double()[:, :, None]
    counts_ONG = counts_ONG / steps_of(scales_ON)[:, :, None]
    return counts_ONG + 2 ** (bits - 1) if minima_ON is None else counts_ONG


def codes_of(groups_ONG: Tensor, minima_ON: Tensor | None, scales_ON: Tensor, bits: int) -> Tensor:
    """The nearest codes, 0 to 2^bits - 1, counted in the stored minima and steps: their rounding costs 0.4% more error, no
    more."""
    return counts_of(groups_ONG, minima_ON, scales_ON, bits).round().clamp(0, 2**bits - 1)


def round_by_group(
    weight_OI: Tensor, bits: int, group: int, symmetric: bool = False, columns_I: Tensor | None = None
) -> Counts:
    """Codes of each group's range, from its minimum to its maximum or either way of 0; no entry moves by more than half a step.

    A minimum costs 16 bits a group and saves error: 16 codes over the range that a group has. On normal weights in groups of 32
    its squared error is 0.66 of that of 15 symmetric codes and 0.84 of that of Q4_0's 16, for half a bit more a weight.
    columns_I: by which the weight's columns have been multiplied, to be kept with it.
    Raises ValueError when an entry is not finite.
    """
    check_matrix(weight_OI)
    groups = grouped(weight_OI, group)
    minima, scales = fit(groups, bits, symmetric)
    codes = codes_of(groups, minima, scales, bits).view(len(weight_OI), -1)[:, : weight_OI.shape[1]]
    return pack(codes, scales, minima, bits, group, columns_I)


def steps_of(scales_ON: Tensor) -> Tensor:
    """The steps in float64; 1 where all of a group is one number."""
    return torch.where(scales_ON > 0, scales_ON, 1.0).double()


def _rounded_down(values: Tensor) -> Tensor:
    """The largest bfloat16 that is not above each value."""
    nearest = values.to(torch.bfloat16)
    below = torch.nextafter(nearest, torch.full_like(nearest, -torch.inf))
    return torch.where(nearest.double() > values, below, nearest)

"""Learned rounding: each weight goes up or down, not always to the nearest, so that the outputs lose least: AdaRound, Nagel et
al. 2020 (arXiv:2004.10568), section 3.3.

Letters: O outputs (rows), I inputs (columns).
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.calibration import LayerInputs
from lm.quantized.counts import Counts, pack, unpacked
from tasks.quantize.error import output_error, row_errors
from tasks.quantize.grid import Grid, counts_of, fit, grouped, round_by_group, steps_of

# The rectified sigmoid's stretch (equation 23), by which it reaches 0 and 1
LOW, HIGH = -0.1, 1.1
# The regulariser's power, from and to, and the share of steps before it counts, as in the authors' code
POWERS, WARM = (20.0, 2.0), 0.2
# Its weight: of 0.01 to 10 the largest lost least of the outputs, 0.27 to 0.39 of what rounding to nearest did, at 2 to 4 bits
WEIGHT = 10.0
RATE = 1e-2  # Adam's


def rectified(v: Tensor) -> Tensor:
    """h(V), between 0 and 1 (equation 23)."""
    return (v.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)


def power_at(step: int, steps: int) -> float | None:
    """beta: high at first, so that only what is all but decided is pushed on, then low; None while the regulariser rests."""
    progress = (step / steps - WARM) / (1 - WARM)
    if progress < 0:
        return None
    return POWERS[1] + (POWERS[0] - POWERS[1]) * 0.5 * (1 + math.cos(math.pi * progress))


def learned(counts_OI: Tensor, steps_OI: Tensor, inputs: LayerInputs, highest: int, steps: int) -> Tensor:
    """codes_OI: of each count, a number of steps from code 0, the whole number below it or above (equation 25)."""
    below_OI = counts_OI.floor().clamp(0, highest)
    shares_OI = (counts_OI - below_OI).clamp(0, 1)
    v = torch.logit(((shares_OI - LOW) / (HIGH - LOW)).float()).requires_grad_()
    moments_II, steps32_OI = inputs.moments_II.float(), steps_OI.float()
    near_OI = (counts_OI.round().clamp(0, highest) - counts_OI).float() * steps32_OI
    # the error is counted in that of rounding to nearest, a weight, so that the regulariser weighs the same for every matrix
    unit = ((near_OI @ moments_II) * near_OI).sum().clamp(min=torch.finfo(torch.float32).tiny) / near_OI.numel()
    optimizer = torch.optim.Adam([v], lr=RATE)
    for step in range(steps):
        optimizer.zero_grad()
        h = rectified(v)
        lost_OI = ((below_OI - counts_OI).float() + h) * steps32_OI
        loss = ((lost_OI @ moments_II) * lost_OI).sum() / unit
        power = power_at(step, steps)
        if power is not None:
            loss = loss + WEIGHT * (1 - (2 * h - 1).abs() ** power).sum()
        loss.backward()
        optimizer.step()
    return (below_OI + (rectified(v.detach()) >= 0.5)).clamp(0, highest)


class LearnedRounding(Grid):
    """Differs from the paper: the error of the outputs is by the inputs' second moments, which is the same sum, of all of them
    at each step; its weight beside the regulariser; the power falls along a cosine; inputs are those of the packed layers
    before, for the outputs as well; a row keeps the nearest where it lost less; and a minimum beside the scale of a group."""

    name: Literal["learned_rounding"] = "learned_rounding"
    steps: int = Field(1000, gt=0, description="of Adam, for each matrix; the paper takes 10,000")

    def __call__(self, weight_OI: Tensor, inputs: LayerInputs | None = None) -> Counts:
        """Weights packed by what is learned; without calibration rounded to nearest by group, which then loses least. Raises
        ValueError when an entry is not finite."""
        nearest = round_by_group(weight_OI, self.bits, self.group, self.symmetric)
        if inputs is None or output_error(weight_OI, nearest.dequantize(), inputs) == 0:
            return nearest
        rows, columns = weight_OI.shape
        groups = grouped(weight_OI, self.group)
        minima, scales = fit(groups, self.bits, self.symmetric)
        steps = steps_of(scales)[:, :, None]
        counts = counts_of(groups, minima, scales, self.bits).view(rows, -1)[:, :columns]
        steps_OI = steps.expand_as(groups).reshape(rows, -1)[:, :columns]
        with torch.enable_grad():
            codes = learned(counts, steps_OI, inputs, 2**self.bits - 1, self.steps)
        found = pack(codes, scales, minima, self.bits, self.group)
        better_O = row_errors(weight_OI, found.dequantize(), inputs) < row_errors(
            weight_OI, nearest.dequantize(), inputs
        )
        codes = torch.where(better_O[:, None], codes, unpacked(nearest.codes, self.bits, columns))
        return pack(codes, scales, minima, self.bits, self.group)

"""Sixteen equal steps over the range of a group of weights: what the 4-bit methods share.

Letters: O outputs (rows), N groups of columns in a row, G columns of a group.
"""

import torch
from torch import Tensor


def fit(groups_ONG: Tensor) -> tuple[Tensor, Tensor]:
    """(minima_ON, scales_ON) in bfloat16, which has float32's range: code 0 and the step, so that code 15 is the maximum.

    The minimum is rounded down, so that no entry lies below it.
    """
    minima = _rounded_down(groups_ONG.amin(2))
    return minima, ((groups_ONG.amax(2) - minima.double()) / 15).to(torch.bfloat16)


def codes_of(groups_ONG: Tensor, minima_ON: Tensor, scales_ON: Tensor) -> Tensor:
    """The nearest codes, 0 to 15, counted in the stored minima and steps: their rounding costs 0.4% more error, no more."""
    steps = torch.where(scales_ON > 0, scales_ON, 1.0).double()
    return ((groups_ONG - minima_ON.double()[:, :, None]) / steps[:, :, None]).round().clamp(0, 15)


def _rounded_down(values: Tensor) -> Tensor:
    """The largest bfloat16 that is not above each value."""
    nearest = values.to(torch.bfloat16)
    below = torch.nextafter(nearest, torch.full_like(nearest, -torch.inf))
    return torch.where(nearest.double() > values, below, nearest)

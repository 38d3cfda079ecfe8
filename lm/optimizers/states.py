"""How an optimizer's moments are kept between updates: as they are, in fp32, or in FP8 with the range of a group stretched.

COAT, Xi et al. 2024, arXiv:2410.19313, section 4 (dynamic range expansion). Of each group of 128 numbers a moment is kept as
E4M3 codes of (|x| / most)^k with x's sign, times E4M3's largest, with k = log(range of E4M3) / log(most / least): the least
magnitude of the group becomes E4M3's least and the most its largest, so that a group of nearly equal numbers uses all codes,
and one of numbers far apart loses none. An update sees fp32: it is made of one weight's moments at a time, which are then
coded again.

Differs from the paper: k is not a multiple of a fraction, at most 32 (a power of fp32 numbers has their error times k), and
zeros, which are coded as zeros, are not what a group's least magnitude is; two fp32 numbers a group are kept, most and k,
where the authors' code has three; master weights stay fp32.

Letters: N numbers of a weight, G groups, S numbers of a group.
"""

import math
import re
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lm.config import Config

KIND = torch.float8_e4m3fn
LARGEST, LEAST = 448.0, 2.0**-9
MOST_POWER = 32.0
# Slots that are means of gradients or of their squares
MOMENTS = ("exp_avg", "exp_avg_sq", "momentum")
CODES, RANGES = re.compile(r"(.+)_fp8"), re.compile(r"(.+)_fp8_by(\d+)")


def by_group(values: Tensor, size: int) -> Tensor:
    """values_GS, with zeros behind the last."""
    flat_N = values.flatten()
    return F.pad(flat_N, (0, -len(flat_N) % size)).view(-1, size)


def quantize(values: Tensor, size: int, expand: bool) -> tuple[Tensor, Tensor]:
    """(codes, float8 in the shape of the values; ranges_2G: most and k)."""
    sizes_GS = by_group(values.abs(), size)
    most_G = sizes_GS.amax(1)
    power_G = torch.ones_like(most_G)
    if expand:
        least_G = torch.where(sizes_GS > 0, sizes_GS, torch.inf).amin(1)
        apart_G = torch.where(most_G > 0, most_G.log2() - least_G.log2(), 0.0)
        power_G = (math.log2(LARGEST / LEAST) / apart_G).clamp(max=MOST_POWER)
    share_GS = sizes_GS / torch.where(most_G > 0, most_G, 1.0)[:, None]
    codes_N = (share_GS ** power_G[:, None] * LARGEST).flatten()[: values.numel()]
    codes = (codes_N.view(values.shape) * values.sign()).clamp(-LARGEST, LARGEST).to(KIND)
    return codes, torch.stack((most_G, power_G))


def dequantize(codes: Tensor, ranges_2G: Tensor, size: int) -> Tensor:
    """Values in fp32; zeros where nothing was encoded yet."""
    most_G, power_G = ranges_2G
    wide = codes.to(ranges_2G.dtype)
    share_GS = by_group(wide.abs() / LARGEST, size) ** (1 / power_G.clamp(min=1e-30))[:, None]
    return (share_GS * most_G[:, None]).flatten()[: codes.numel()].view(codes.shape) * wide.sign()


def initial_coded_state(slot: str, weight: Tensor) -> Tensor | None:
    """The first state of a slot of codes or of ranges; None for another slot."""
    if found := RANGES.fullmatch(slot):
        return weight.new_zeros(2, -(-weight.numel() // int(found[2])))
    return torch.zeros_like(weight, dtype=KIND) if CODES.fullmatch(slot) else None


class States(Config):
    """The parameters of an optimizer's moments."""

    format: Literal["fp32", "fp8"] = Field("fp32", description="fp8: a byte a number, and 8 a group")
    group: int = Field(128, gt=0, description="numbers that share a range; the paper: 128")
    expand: bool = Field(True, description="stretch each group's range to that of float8")

    @property
    def bytes_a_number(self) -> float:
        """Bytes that a number of a moment takes."""
        return 4.0 if self.format == "fp32" else 1 + 8 / self.group

    def slots(self, slots: tuple[str, ...]) -> tuple[str, ...]:
        """Slots as they are kept: of each moment one of codes and one of ranges."""
        kept: list[str] = []
        for slot in slots:
            kept += [f"{slot}_fp8", f"{slot}_fp8_by{self.group}"] if slot in MOMENTS else [slot]
        return tuple(kept)

    def decode(self, state: dict[str, Tensor], slots: tuple[str, ...]) -> dict[str, Tensor]:
        """The state by its own slots, moments in fp32."""
        return {
            slot: dequantize(state[f"{slot}_fp8"], state[f"{slot}_fp8_by{self.group}"], self.group)
            if slot in MOMENTS
            else state[slot]
            for slot in slots
        }

    def encode_(self, state: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        """Keep these moments in the state."""
        for slot, values in moments.items():
            if slot in MOMENTS:
                codes, ranges_2G = quantize(values, self.group, self.expand)
                state[f"{slot}_fp8"].copy_(codes)
                state[f"{slot}_fp8_by{self.group}"].copy_(ranges_2G)

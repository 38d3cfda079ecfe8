"""Rotary positions (RoFormer, arXiv:2104.09864), and the ways to stretch them over a longer context.

Letters: T positions, E head width.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import Config


def base_frequencies(theta: float, head_width: int) -> Tensor:
    """frequency_E/2 in radians a position: theta^(-2i / E)."""
    half = head_width // 2
    return theta ** (-torch.arange(half) / half)


class Linear(Config):
    """Positions divided by the factor (Chen et al. 2023, arXiv:2306.15595)."""

    kind: Literal["linear"] = "linear"
    factor: float = Field(gt=0)

    def frequencies(self, theta: float, head_width: int) -> Tensor:
        return base_frequencies(theta, head_width) / self.factor

    @property
    def amplitude(self) -> float:
        return 1.0


class Llama3(Config):
    """Slow frequencies divided by the factor, fast ones kept, a straight ramp in between (Llama 3.1, arXiv:2407.21783)."""

    kind: Literal["llama3"] = "llama3"
    factor: float = Field(gt=0)
    low_turns: float = Field(1.0, gt=0, description="fewer turns in the original context than this: slow")
    high_turns: float = Field(4.0, gt=0, description="more turns than this: fast")
    original_context: int = Field(gt=0)

    def frequencies(self, theta: float, head_width: int) -> Tensor:
        whole = base_frequencies(theta, head_width)
        turns = self.original_context * whole / (2 * math.pi)
        kept = ((turns - self.low_turns) / (self.high_turns - self.low_turns)).clamp(0, 1)
        return kept * whole + (1 - kept) * whole / self.factor

    @property
    def amplitude(self) -> float:
        return 1.0


class Yarn(Config):
    """Slow frequencies divided by the factor, fast ones kept, a straight ramp over their index in between, and sharper
    attention (Peng et al. 2023, arXiv:2309.00071)."""

    kind: Literal["yarn"] = "yarn"
    factor: float = Field(gt=0)
    slow_turns: float = Field(1.0, gt=0, description="in the original context; the ramp begins here")
    fast_turns: float = Field(32.0, gt=0, description="and ends here")
    original_context: int = Field(gt=0)

    def frequencies(self, theta: float, head_width: int) -> Tensor:
        def index_of(turns: float) -> float:
            """The index i at which theta^(-2i / E) turns that often."""
            return head_width * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

        first = max(math.floor(index_of(self.fast_turns)), 0)
        last = min(math.ceil(index_of(self.slow_turns)), head_width - 1)
        slow = ((torch.arange(head_width // 2) - first) / max(last - first, 0.001)).clamp(0, 1)
        whole = base_frequencies(theta, head_width)
        return (1 - slow) * whole + slow * whole / self.factor

    @property
    def amplitude(self) -> float:
        """Factor of query and of key: the logits grow by its square."""
        return 0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0


Scaling = Annotated[Linear | Llama3 | Yarn, Field(discriminator="kind")]


def rotary_cos_sin(theta: float, head_width: int, context: int, scaling: Scaling | None) -> tuple[Tensor, Tensor]:
    """(cos_TE, sin_TE) of every position up to the context, E being half the head's width."""
    frequencies = scaling.frequencies(theta, head_width) if scaling else base_frequencies(theta, head_width)
    angles = torch.arange(context)[:, None] * frequencies
    amplitude = scaling.amplitude if scaling else 1.0
    return angles.cos() * amplitude, angles.sin() * amplitude

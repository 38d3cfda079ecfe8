"""COAT's products in FP8: a scale for each tensor, made of its largest magnitude each time.

Xi et al. 2024, arXiv:2410.19313, section 5: weights and activations are cast to E4M3 and gradients to E5M2, each behind a
scale by which its largest magnitude becomes that of the format; the input is kept for the backward as E4M3. What of the paper
is in the optimizer, its states in FP8, is `optimizer_states` (lm/optimizers/states.py), which stands beside any rounding.

Differs from the paper: norms and activation functions keep what they did, where the paper keeps their inputs as FP8 with a
scale for each group of 16 columns; what layers of one input keep is kept once.

Letters: R rows, I inputs, O outputs.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from lm.precisions.base import Formats, RoundedLinear, Rounding, ScaledCodes
from lm.precisions.float8 import E4M3, E5M2, cast, largest


def by_tensor(values: Tensor, kind: torch.dtype) -> ScaledCodes:
    """Codes, and the scale by which the largest magnitude is the format's largest number; 1 where all is 0."""
    most = values.abs().max()
    scale = torch.where(most > 0, most / largest(kind), 1.0)
    return ScaledCodes(cast(values / scale, kind), scale)


class DynamicFloat8(Formats):
    """x and W in E4M3, dy in E5M2, with a scale a tensor."""

    def weight(self, weight_OI: Tensor, own: Tensor | None) -> ScaledCodes:
        return by_tensor(weight_OI, E4M3)

    def activation(self, x_RI: Tensor) -> ScaledCodes:
        return by_tensor(x_RI, E4M3)

    def gradient(self, dy_RO: Tensor, counter: Tensor) -> ScaledCodes:
        return by_tensor(dy_RO, E5M2)

    def values(self, packed: ScaledCodes, dtype: torch.dtype) -> Tensor:
        return packed.codes.to(dtype) * packed.scale


class Coat(Rounding):
    """The scale of an input is that of all tokens of a pass: a token gets other numbers beside other rows, and sees later ones.
    Evaluation of a model that is still held so, as within its training, sees that, too; the model that is saved does not.
    """

    spans_rows = True
    name: Literal["coat"] = "coat"

    def rounded(self, name: str, linear: nn.Linear) -> RoundedLinear:
        return RoundedLinear(name, linear, DynamicFloat8(), 0)

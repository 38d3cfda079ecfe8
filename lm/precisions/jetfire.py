"""Jetfire: INT8 between operators. Weights, activations and gradients are whole numbers of -127 to 127, with a step for each
block of 32 x 32.

Xi et al. 2024, arXiv:2403.12422, section 4 and algorithm 1. A step is a block's largest magnitude over 127; weights and
activations go to the nearest number, gradients to one of the two next ones, on the mean exactly. Blocks are squares, so that a
matrix and its transpose have the same codes. Results and gradients of inputs go on as INT8, too, but those that attention
reads or gives, which the authors' code leaves in 16 bits.

Differs from the paper: steps are fp32 in place of 16 bits; norms, activation functions and the residual stream compute and
keep what they did, of inputs that were rounded, where the paper's keep INT8; noise is counted (`noise.py`).

Letters: R rows, C columns, S block side, P and Q blocks along rows and columns.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lm.linears.base import is_named
from lm.precisions.base import Formats, RoundedLinear, Rounding, ScaledCodes
from lm.precisions.noise import drawn

MOST = 127


def block_steps(values_RC: Tensor, side: int) -> Tensor:
    """steps_PQ: of each block the largest magnitude over 127, and 1 where all is 0; blocks at the ends may be smaller."""
    rows, columns = values_RC.shape
    padded = F.pad(values_RC.abs(), (0, -columns % side, 0, -rows % side))
    most_PQ = padded.view(padded.shape[0] // side, side, padded.shape[1] // side, side).amax((1, 3))
    return torch.where(most_PQ > 0, most_PQ / MOST, 1.0)


def spread_out(steps_PQ: Tensor, side: int, rows: int, columns: int) -> Tensor:
    """steps_RC: of each entry that of its block."""
    P, Q = steps_PQ.shape
    wide = steps_PQ[:, None, :, None].expand(P, side, Q, side).reshape(P * side, Q * side)
    return wide[:rows, :columns]


class BlockInt8(Formats):
    """given_on: results go on as INT8; sent_on: gradients of the input do."""

    def __init__(self, side: int, given_on: bool, sent_on: bool) -> None:
        self.side, self.given_on, self.sent_on = side, given_on, sent_on

    def packed(self, values_RC: Tensor, counter: Tensor | None = None) -> ScaledCodes:
        """Codes and steps; drawn by a counter, else the nearest."""
        steps_PQ = block_steps(values_RC, self.side)
        exact_RC = values_RC / spread_out(steps_PQ, self.side, *values_RC.shape)
        codes_RC = exact_RC.round() if counter is None else drawn(exact_RC, counter)
        return ScaledCodes(codes_RC.clamp(-MOST, MOST).to(torch.int8), steps_PQ)

    def weight(self, weight_OI: Tensor, own: Tensor | None) -> ScaledCodes:
        return self.packed(weight_OI)

    def activation(self, x_RI: Tensor) -> ScaledCodes:
        return self.packed(x_RI)

    def gradient(self, dy_RO: Tensor, counter: Tensor) -> ScaledCodes:
        return self.packed(dy_RO, counter)

    def values(self, packed: ScaledCodes, dtype: torch.dtype) -> Tensor:
        return packed.codes.to(dtype) * spread_out(packed.scale, self.side, *packed.codes.shape)

    def round_output(self, y_RO: Tensor) -> Tensor:
        return self.values(self.packed(y_RO), y_RO.dtype) if self.given_on else y_RO

    def round_input_gradient(self, dx_RI: Tensor, counter: Tensor) -> Tensor:
        return self.values(self.packed(dx_RI, counter), dx_RI.dtype) if self.sent_on else dx_RI


# Layers whose results attention reads, and the one that reads attention's: what is between them stays in 16 bits
INTO_ATTENTION, BEHIND_ATTENTION = ("attention.query", "attention.key", "attention.value"), ("attention.output",)


class Jetfire(Rounding):
    """A step of an input is that of a block of tokens, which may be of two rows: a token gets other numbers beside other rows,
    and sees later ones. Evaluation of a model that is still held so, as within its training, sees that, too; the model that is
    saved does not.
    """

    spans_rows = True
    name: Literal["jetfire"] = "jetfire"
    block: int = Field(32, gt=0, description="side of the squares that have a step")
    flow: bool = Field(True, description="results, and gradients of inputs, go on as INT8, too")
    seed: int = Field(0, ge=0, description="of the noise that gradients are rounded by")

    def rounded(self, name: str, linear: nn.Linear) -> RoundedLinear:
        given, sent = (
            self.flow and not any(is_named(name, part) for part in parts)
            for parts in (INTO_ATTENTION, BEHIND_ATTENTION)
        )
        return RoundedLinear(name, linear, BlockInt8(self.block, given, sent), self.seed)

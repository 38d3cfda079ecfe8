"""INT4: every product of 4-bit numbers. Forward behind a Hadamard transform, with steps that are learned; backward with
gradients split into two 4-bit numbers, of whose rows half are drawn by what they matter.

Xi et al. 2023, arXiv:2306.11987. Section 3: y = (x H)(W H)^T, either factor as s clip(round(./s), -8, 7), with a step s for
each that is learned as in LSQ (Esser et al. 2020, arXiv:1902.08153); H is orthonormal and in blocks, and spreads an outlier
over its block. Section 4: dy is the sum of a coarse and a fine part, each of 4 bits, the fine one rounded by chance to dy on
the mean (bit splitting). The 2R rows of the two parts are drawn, each with a probability p that makes R of them on the mean,
in proportion to the norm of what it adds to a product: its own, times that of the row of x for the weight's gradient
(leverage score sampling). A row that is drawn counts 1 / p.

Differs from the paper: a step is the mean magnitude of what is rounded now, times 2 / sqrt(7), times a learned factor, where
the paper has the first batch's in place of the present one, so that no batch must come before the first step; its logarithm
is what is learned. H has the largest power of two that divides a row, up to `block`, where the paper searches one a layer.
The fine step is 1/14 of the coarse one, as in the authors' code, by which no rest is cut. LSQ's gradient of a step needs what
was rounded, so that the rotated input is kept as it is: memory is no less than that of dense layers.

Letters: R rows, I inputs, O outputs, C columns.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lm.precisions.base import Gradients, Kept, RoundedLinear, Rounding, Scheme
from lm.precisions.noise import drawn, key_of, uniform

LOWEST, HIGHEST = -8, 7
# Of the coarse part of a gradient in steps of the fine one
FINE = 14
# Rounds in which probabilities beyond 1 are cut and the others made larger; what is left is a draw of fewer rows, no bias
ROUNDS = 8


def hadamard(order: int, like: Tensor) -> Tensor:
    """Sylvester's matrix of a power of two, divided by its root: orthonormal and symmetric."""
    found = like.new_ones(1, 1)
    while len(found) < order:
        found = torch.cat((torch.cat((found, found), 1), torch.cat((found, -found), 1)), 0)
    return found / math.sqrt(order)


def block_of(columns: int, most: int) -> int:
    """The largest power of two that divides so many columns and is no larger than `most`."""
    return min(columns & -columns, 1 << (most.bit_length() - 1))


def rotated(values_RC: Tensor, block: int) -> Tensor:
    """Rows times H in blocks; twice gives what was there."""
    blocks = values_RC.unflatten(1, (-1, block))
    return (blocks @ hadamard(block, values_RC)).flatten(1)


def step_of(rotated_RC: Tensor, logarithm: Tensor) -> Tensor:
    """s: LSQ's first step of these numbers, times a learned factor; 1 where all are 0."""
    first = 2 * rotated_RC.abs().mean() / math.sqrt(HIGHEST)
    return torch.where(first > 0, first, 1.0) * logarithm.exp()


def codes_of(counted_RC: Tensor) -> Tensor:
    """Whole numbers of 4 bits of what is counted in steps."""
    return counted_RC.round().clamp(LOWEST, HIGHEST)


def through_lsq(gradient_RC: Tensor, counted_RC: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient of what was rounded, of the step's logarithm), of a gradient of s times the codes (LSQ, equations 3 and 5)."""
    low, high = counted_RC < LOWEST, counted_RC > HIGHEST
    inside = ~(low | high)
    of_step = torch.where(inside, counted_RC.round() - counted_RC, counted_RC.clamp(LOWEST, HIGHEST))
    total = (gradient_RC * of_step).sum() / math.sqrt(counted_RC.numel() * HIGHEST)
    return gradient_RC * inside, total * step


def split(dy_RO: Tensor, counter: Tensor) -> Tensor:
    """parts_2RO, whose sum is dy on the mean: whole numbers of -7 to 7, times the coarse step and times 1/14 of it."""
    most = dy_RO.abs().max()
    coarse = torch.where(most > 0, most / HIGHEST, 1.0)
    fine = coarse / FINE
    high_RO = (dy_RO / coarse).round()
    low_RO = drawn((dy_RO - high_RO * coarse) / fine, counter).clamp(-HIGHEST, HIGHEST)
    return torch.stack((high_RO * coarse, low_RO * fine))


def probabilities(matter_N: Tensor, wanted: int) -> Tensor:
    """p_N, at most 1, in proportion to what rows matter but for those at 1, which sum to `wanted` (to fewer after ROUNDS)."""
    factor = wanted / matter_N.sum().clamp(min=1e-30)
    for _ in range(ROUNDS):
        certain_N = factor * matter_N >= 1
        rest = torch.where(certain_N, 0.0, matter_N).sum()
        # where all that matter is certain, nothing is left to share out
        factor = torch.where(rest > 0, (wanted - certain_N.sum()) / rest.clamp(min=1e-30), factor)
    return (factor * matter_N).clamp(max=1)


def sampled(parts_2RO: Tensor, matter_2R: Tensor, counter: Tensor) -> Tensor:
    """dy_RO: the sum of the rows that were drawn, each over its probability."""
    p_N = probabilities(matter_2R.flatten(), matter_2R.shape[1])
    taken_N = uniform(key_of(parts_2RO, counter), p_N.shape) < p_N
    weights_N = torch.where(taken_N, 1 / p_N.clamp(min=1e-30), 0.0)
    return (parts_2RO * weights_N.view(2, -1, 1)).sum(0)


class Int4(Scheme):
    """own_2: logarithms of the learned factors of the input's step and the weight's."""

    shared = False

    def __init__(self, block: int) -> None:
        self.block = block

    def codes_and_steps(self, values_RC: Tensor, logarithm: Tensor) -> tuple[Tensor, Tensor]:
        """(rotated values in steps, the step)."""
        rotated_RC = rotated(values_RC, self.block)
        step = step_of(rotated_RC, logarithm)
        return rotated_RC / step, step

    def input(self, x_RI: Tensor, own: Tensor | None) -> Kept:
        assert own is not None
        return self.codes_and_steps(x_RI, own[0])

    def forward(self, kept: Kept, weight_OI: Tensor, own: Tensor | None) -> Tensor:
        assert own is not None
        counted_RI, step = kept
        of_weight_OI, weight_step = self.codes_and_steps(weight_OI, own[1])
        return (codes_of(counted_RI) @ codes_of(of_weight_OI).T) * (step * weight_step)

    def backward(self, dy_RO: Tensor, kept: Kept, weight_OI: Tensor, own: Tensor | None, counter: Tensor) -> Gradients:
        assert own is not None
        counted_RI, step = kept
        of_weight_OI, weight_step = self.codes_and_steps(weight_OI, own[1])
        x_RI, rounded_OI = codes_of(counted_RI) * step, codes_of(of_weight_OI) * weight_step
        parts_2RO = split(dy_RO, counter)
        norms_2R = torch.linalg.vector_norm(parts_2RO, dim=2)
        dx_RI = sampled(parts_2RO, norms_2R, counter + 1) @ rounded_OI
        matter_2R = norms_2R * torch.linalg.vector_norm(x_RI, dim=1)
        dweight_OI = sampled(parts_2RO, matter_2R, counter + 2).T @ x_RI
        dx_RI, of_step = through_lsq(dx_RI, counted_RI, step)
        dweight_OI, of_weight_step = through_lsq(dweight_OI, of_weight_OI, weight_step)
        of_own = torch.stack((of_step, of_weight_step))
        return Gradients(rotated(dx_RI, self.block), rotated(dweight_OI, self.block), of_own)


class SteppedLinear(RoundedLinear):
    """A layer with the logarithms of its two steps' factors, which begin as zeros and are trained."""

    roles = {"weight": "matrix", "bias": "vector", "steps": "vector"}  # noqa: RUF012

    def __init__(self, name: str, linear: nn.Linear, scheme: Int4, seed: int) -> None:
        super().__init__(name, linear, scheme, seed)
        self.steps = nn.Parameter(linear.weight.new_zeros(2))

    def own(self) -> Tensor:
        return self.steps


class BitSplit(Rounding):
    """The step of an input is that of all tokens of a pass: a token gets other numbers beside other rows, and sees later ones.
    Evaluation of a model that is still held so, as within its training, sees that, too; the model that is saved does not.
    """

    spans_rows = True
    name: Literal["int4"] = "int4"
    block: int = Field(32, gt=0, description="columns that a Hadamard transform mixes, at most; the paper: up to 1024")
    seed: int = Field(0, ge=0, description="of the noise of gradients and of the draws of their rows")

    def rounded(self, name: str, linear: nn.Linear) -> RoundedLinear:
        return SteppedLinear(name, linear, Int4(block_of(linear.in_features, self.block)), self.seed)

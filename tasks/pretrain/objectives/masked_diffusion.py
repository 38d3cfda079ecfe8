"""Predict masked tokens from all others: masked diffusion, Sahoo et al. 2024, MDLM (arXiv:2406.07524), equation 11, scaled up
by Nie et al. 2024, SMDM (arXiv:2410.18514), and Nie et al. 2025, LLaDA (arXiv:2502.09992), equation 3.

Of each sequence a ratio t is drawn and each token masked with probability t; the loss is the sum of the cross-entropies of the
masked tokens, over t. With uniform ratios its mean is no less than the negative log-likelihood of the sequence: an upper bound,
and no likelihood. No probability is spent on the mask, whose row of the head is left out (MDLM's zero masking probabilities).

clamp: Hang et al. 2023, Min-SNR (arXiv:2303.09556), equation 7, whose weight of a prediction of the data is min(SNR, gamma).
Differs from the paper: SNR is (1 - t) / t here, and the weight of the bound 1 / t = 1 + SNR, of which the least of itself and
`clamp` is taken.
complementary: Jordan 2024, airbench (arXiv:2404.00498), section 3.6, whose augmentation shows an image and its mirror image in
turn, in place of either by chance. Differs from the paper: a plan meets a sequence once, so both halves of its tokens are
masked in one step, as two rows with ratios t and 1 - t, which costs a step twice the work; a mask is drawn anew for each pair.
Differs from SMDM and LLaDA: a token is given its own place's prediction, not the next one's; documents may be kept apart, and
then the last token of a row, which is of no document that the step knows, stands alone.

Letters: R rows, T tokens of a row that are predicted, N = T + 1.
"""

from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from kernels.linear_cross_entropy import IGNORED, linear_cross_entropy
from lm.config import choice
from lm.model import Decoder
from lm.training.batch import Metrics
from lm.transfer import to_device
from tasks.pretrain import ratios
from tasks.pretrain.objectives.base import FIRST, LossPosition, Objective
from tasks.pretrain.ratios.base import LEAST

# Of a step's generators, apart from those of whoever else is given the same seed: of rows, and of what all rows share
ROW, STEP = 0x4D41534B, 0x4D41534C


class Masks(NamedTuple):
    """masked_RT: which tokens are; ratios_R: with what probability each of a row was, fp32."""

    masked_RT: Tensor
    ratios_R: Tensor


def generator(at: LossPosition, number: int, purpose: int) -> np.random.Generator:
    """Draws of this number in the step, whichever others are asked for."""
    return np.random.Generator(np.random.Philox(key=[at.seed, at.step], counter=[0, 0, number, purpose]))


def points_of(at: LossPosition, rows: int, length: int, low_discrepancy: bool) -> tuple[np.ndarray, np.ndarray]:
    """(points_R, from which a law makes ratios; points_RT, below which ratio a token is masked), fp64 in [0, 1).

    low_discrepancy: one draw of the step, and of its B rows row b lies b / B further on, around the circle: as evenly as can
    be, each point by itself uniform (MDLM, section 3.5; Kingma et al. 2021, arXiv:2107.00630, appendix I).
    """
    drawn = np.stack([generator(at, at.first + row, ROW).random(1 + length) for row in range(rows)])
    points_R = drawn[:, 0]
    if low_discrepancy:
        begin, total = generator(at, 0, STEP).random(), at.rows or rows
        points_R = (begin + (at.first + np.arange(rows)) / total) % 1.0
    return points_R, drawn[:, 1:]


def isolated_bounds(bounds: Tensor, rows: int, length: int) -> Tensor:
    """Where documents begin in the R x T tokens that are predicted, from where they begin in the tokens in front of these; the
    last token of a row, which may be of another document, begins one of its own."""
    row, column = bounds.div(length, rounding_mode="floor"), bounds % length
    begins = row * length + (column - 1).clamp(min=0)
    ends = torch.arange(1, rows + 1) * length
    return torch.cat((begins, ends - 1, ends[-1:])).unique()


class MaskedDiffusion(Objective):
    name: Literal["masked_diffusion"] = "masked_diffusion"
    ratio: choice(ratios) = ratios.Uniform()
    low_discrepancy: bool = Field(
        False, description="ratios of a step's sequences as even as can be, in place of by chance"
    )
    complementary: bool = Field(
        False, description="each sequence twice in its step, masked where it was not the first time; twice the work"
    )
    clamp: float | None = Field(
        None, gt=0, description="most that a masked token's loss is multiplied with; null: 1 / ratio; Min-SNR has 5"
    )
    causal: ClassVar[bool] = False

    @model_validator(mode="after")
    def _drawn(self) -> "MaskedDiffusion":
        for name in ("low_discrepancy", "complementary"):
            if getattr(self, name) and not self.ratio.drawn:
                raise ValueError(
                    f"{name}: {self.ratio.name} gives all sequences of a step one ratio: take another or leave it"
                )
        return self

    @property
    def by_run(self) -> bool:
        return self.ratio.by_run

    def add_modules(self, model: Decoder, seed: int) -> None:
        model.passes = 1 + self.complementary

    def drop(self, model: Decoder) -> None:
        model.passes = 1

    def masks(self, at: LossPosition, rows: int, length: int, device: torch.device) -> list[Masks]:
        """The masks of the rows: one, or two of which each has what the other leaves."""
        points_R, points_RT = (torch.tensor(points) for points in points_of(at, rows, length, self.low_discrepancy))
        ratios_R = self.ratio(points_R, at.progress)
        if self.complementary:
            ratios_R = ratios_R.clamp(LEAST, 1 - LEAST)
        masked_RT = points_RT < ratios_R[:, None]
        made = [(masked_RT, ratios_R)]
        if self.complementary:
            made.append((~masked_RT, 1 - ratios_R))
        return [Masks(*to_device((masked, ratio.float()), device)) for masked, ratio in made]

    def __call__(
        self,
        model: Decoder,
        tokens_BN: Tensor,
        bounds: Tensor | None,
        denominator: int,
        counted_BT: Tensor | None = None,
        each_BT: Tensor | None = None,
        at: LossPosition = FIRST,
    ) -> tuple[Tensor, Metrics]:
        """The sum over all masked tokens of the sequences, but their first, of their cross-entropies by their weights, divided
        by `denominator`, in nats. As metrics the same with weights of 1 / ratio, which with uniform ratios is an estimate of
        the bound a token, and the share of tokens that is masked. counted_BT: which may be masked, all others being seen; None:
        all. each_BT: gets each token's part of the estimate, 0 where it is not masked. All else as the next token's objective
        has it."""
        targets_RT = tokens_BN[:, 1:]
        R, T = targets_RT.shape
        masks = self.masks(at, R, T, targets_RT.device)
        views = len(masks)
        masked_ST = torch.cat([mask.masked_RT for mask in masks])
        ratios_S = torch.cat([mask.ratios_R for mask in masks])
        targets_ST = targets_RT.repeat(views, 1)
        if counted_BT is not None:
            masked_ST = masked_ST & counted_BT.repeat(views, 1)
        if bounds is not None:
            own = isolated_bounds(bounds, R, T)
            bounds = torch.cat([own[:-1] + view * R * T for view in range(views)] + [own[-1:] * views])
        mask_id = model.config.mask_id
        x_STD = model.hidden(targets_ST.masked_fill(masked_ST, mask_id), bounds=bounds)
        unclamped_S1 = ratios_S.reciprocal()[:, None]
        weights_S1 = unclamped_S1 if self.clamp is None else unclamped_S1.clamp(max=self.clamp)
        each_ST = torch.empty(targets_ST.shape, device=targets_ST.device)
        loss, _ = linear_cross_entropy(
            x_STD.flatten(0, 1),
            model.head_weight[:mask_id],
            targets_ST.where(masked_ST, IGNORED).flatten(),
            weights_T=weights_S1.expand_as(targets_ST).flatten(),
            denominator=denominator * views,
            each_T=each_ST.view(-1),
            softcap=model.config.logit_softcap or 0.0,
        )
        of_bound_RT = (each_ST.where(masked_ST, 0.0) * unclamped_S1).view(views, R, T).mean(0)
        if each_BT is not None:
            each_BT.copy_(of_bound_RT)
        return loss, {
            "cross_entropy": of_bound_RT.sum() / denominator,
            "mask_ratio": masked_ST.sum() / (denominator * views),
        }

"""What every preference loss is given of P pairs, and says of itself."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lm.config import Config


@dataclass(frozen=True)
class Logps:
    """Log-probabilities (nats) of whole answers, the end token included, given their prompts: sums over their tokens.

    reference_*: under the start model, 0 where the loss needs none. *_tokens_P: tokens that a sum is over. point: an estimate
    of KL(model || start model) over the step, never negative and without a gradient; 0 where the loss needs none.
    """

    chosen_P: Tensor
    rejected_P: Tensor
    reference_chosen_P: Tensor
    reference_rejected_P: Tensor
    chosen_tokens_P: Tensor
    rejected_tokens_P: Tensor
    point: Tensor | float = 0.0

    @property
    def ratios(self) -> tuple[Tensor, Tensor]:
        """log(model / start model) of the chosen answers and of the rejected ones."""
        return self.chosen_P - self.reference_chosen_P, self.rejected_P - self.reference_rejected_P

    @property
    def token_means(self) -> tuple[Tensor, Tensor]:
        """Log-probability a token of the chosen answers and of the rejected ones."""
        return self.chosen_P / self.chosen_tokens_P, self.rejected_P / self.rejected_tokens_P


class PreferenceLoss(Config):
    """needs_reference: whether it compares with the start model. needs_point: whether it compares with how far the model has
    moved from there in the mean, which takes a forward more of every step's rows."""

    needs_reference: ClassVar[bool] = True
    needs_point: ClassVar[bool] = False

"""Identity preference optimization (Azar et al. 2023, arXiv:2310.12036, equation 17)."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from lm.margins import squared_distance
from tasks.preference.losses.base import Logps, PreferenceLoss


class Ipo(PreferenceLoss):
    """per_token: log-ratios are divided by the tokens of their answers, as TRL has it, with a tau of that scale."""

    name: Literal["ipo"] = "ipo"
    tau: float = Field(0.1, gt=0, description="the margin aimed at is 1 / (2 tau) nats")
    per_token: bool = Field(False, description="log-ratios a token, as TRL has them; the paper's are of whole answers")

    def __call__(self, logps: Logps) -> tuple[Tensor, Tensor]:
        chosen_P, rejected_P = logps.ratios
        if self.per_token:
            chosen_P, rejected_P = chosen_P / logps.chosen_tokens_P, rejected_P / logps.rejected_tokens_P
        return squared_distance(chosen_P, rejected_P, self.tau), (chosen_P - rejected_P).detach()

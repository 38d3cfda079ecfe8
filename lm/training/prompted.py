"""The parameters of a training stage that may leave its model as it is and learn a prompt for it."""

import torch
from pydantic import model_validator
from torch import nn

from lm import prompts
from lm.config import choice
from lm.linears import Dense
from lm.precisions.base import Rounding
from lm.prompts import Without
from lm.training.recipe import Recipe


class Prompted(Recipe):
    """A recipe whose stage has `put_prompt` of lm/prompts called before it trains."""

    soft_prompt: choice(prompts) = Without()

    @property
    def learns_prompt(self) -> bool:
        """Whether a prompt is all that is trained."""
        return not isinstance(self.soft_prompt, Without)

    @model_validator(mode="after")
    def _model_stays(self) -> "Prompted":
        if self.learns_prompt and not isinstance(self.linear, Dense):
            raise ValueError(
                f"soft_prompt: the model stays as it is, and linear {self.linear.name} trains its matrices: set either to its "
                "default"
            )
        rounding = self.rounding.name
        if self.learns_prompt and isinstance(self.rounding, Rounding) and own_numbers(self.rounding):
            raise ValueError(
                f"soft_prompt: the model stays as it is, and rounding {rounding} trains numbers of its layers' own: "
                "set either to its default"
            )
        return self


def own_numbers(rounding: Rounding) -> set[str]:
    """Names of what a layer that rounds so learns beside its matrix and bias."""
    with torch.device("meta"):
        layer = rounding.rounded("", nn.Linear(1, 1))
    return {name for name, _ in layer.named_parameters()} - {"weight", "bias"}

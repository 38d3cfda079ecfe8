"""The parameters of a training stage that may leave its model as it is and learn a prompt for it."""

from pydantic import model_validator

from lm import prompts
from lm.config import choice
from lm.linears import Dense
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
        return self

"""Prompt tuning, Lester et al. 2021 (arXiv:2104.08691): P vectors in front of the embedded text, which alone are learned."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from lm.prompts.base import Prompt, SoftPrompt


class PromptTuning(Prompt):
    """Positions count from the first vector on, so that those of a text that fills the context go P beyond it.

    Differs from the paper: a decoder and no T5, whose positions are relative; vectors begin as tokens of the whole vocabulary
    and not of its 5,000 most frequent; the optimizer is the stage's, where the paper's is Adafactor at a rate of 0.3, and a
    rate far above that of fine-tuning is needed here, too."""

    name: Literal["prompt_tuning"] = "prompt_tuning"
    keep: bool = Field(False, description="leave the prompt beside the model too, as the library peft reads it")

    def build(self, embedding_VD: Tensor) -> SoftPrompt:
        made = SoftPrompt(self.initial_vectors(embedding_VD))
        made.keep = self.keep
        return made

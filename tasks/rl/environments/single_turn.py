"""No environment: an answer is what the model writes to the prompt, in one go."""

from typing import ClassVar, Literal

from lm.tokenizer import Tokenizer
from tasks.rl.environments.base import Environment, Sample, Transcript


class SingleTurn(Environment):
    """Answers as the sampler gives them."""

    name: Literal["single_turn"] = "single_turn"
    adds: ClassVar[bool] = False

    def __call__(self, sample: Sample, tokenizer: Tokenizer, prompts: list[list[int]], most: int) -> list[Transcript]:
        return [
            Transcript(c.ids, c.logps, c.finished, [True] * len(c.ids))
            for c in sample(prompts, list(range(len(prompts))))
        ]

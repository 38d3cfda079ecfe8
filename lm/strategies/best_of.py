"""The best of several drawn answers: by a verifier, Cobbe et al. 2021 (arXiv:2110.14168), section 4; by their own likelihood,
Chen et al. 2021 (arXiv:2107.03374), section 3.3."""

import math
from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import ConfigError
from lm.model import Decoder
from lm.sampler import Completion
from lm.strategies.base import DecodedAnswer, PromptBatch, best_answer, number_of
from lm.strategies.sample import Drawing
from lm.temperature import Temperature


def select_index(scores: list[float | None], temperature: float, point: float) -> int:
    """Place of the best score, the first of equals, or at a temperature above 0 that under which the point, in [0, 1), falls
    when softmax(scores / temperature) are laid end to end. What has no score is not chosen; 0 where nothing has one."""
    known = [(place, score) for place, score in enumerate(scores) if score is not None]
    if not known:
        return 0
    best = max(score for _, score in known)
    if temperature == 0:
        return next(place for place, score in known if score == best)
    weights = [math.exp((score - best) / temperature) for _, score in known]
    left = point * math.fsum(weights)
    for (place, _), weight in zip(known, weights, strict=True):
        left -= weight
        if left < 0:
            return place
    return known[-1][0]


def mean_logp(completion: Completion) -> float | None:
    """Mean log-probability (nats) of a completion's tokens, the one that ends it included; None of one without any."""
    return math.fsum(completion.logps) / len(completion.logps) if completion.logps else None


class BestOf(Drawing):
    """`by: verifier` asks whoever scores the problems, so that in evaluation the verifier knows the answer: accuracy is then
    the share of problems that some answer is right of (pass@n), the most that any judge could reach with these answers. `by:
    likelihood` asks nobody: the mean log-probability of a token, under the distribution that it was drawn from.

    judge_temperature draws the answer by softmax(score / temperature), as in "Demystifying LLM-as-a-Judge: analytically
    tractable model for inference-time scaling"; its closed forms for the best number of answers and temperature, which are of
    Bayesian linear regression, are not here. Differs from Cobbe et al.: no verifier is trained."""

    name: Literal["best_of"] = "best_of"
    samples: int = Field(8, gt=0, description="answers to choose from")
    by: Literal["verifier", "likelihood"] = "verifier"
    judge_temperature: Temperature = Field(0.0, description="of the choice among them; 0: the best")

    @property
    def default_label(self) -> str:
        return f"best_of_{self.samples}" + "_by_likelihood" * (self.by == "likelihood")

    def __call__(self, model: Decoder, asked: PromptBatch) -> list[DecodedAnswer]:
        if self.by == "verifier" and asked.score is None:
            raise ConfigError("best_of: there is nobody to score answers: take by: likelihood")
        found = []
        for place, completions in enumerate(self.sample_completions(model, asked, self.samples)):
            key = [asked.seed, number_of(asked.names[place], "judge")]
            point = np.random.Generator(np.random.Philox(key=key)).random()
            scores = [self._score(asked, place, completion) for completion in completions]
            found.append(best_answer(completions, select_index(scores, self.judge_temperature, point)))
        return found

    def _score(self, asked: PromptBatch, place: int, completion: Completion) -> float | None:
        if self.by == "likelihood":
            return mean_logp(completion)
        assert asked.score is not None
        return asked.score(place, asked.text(completion.ids))

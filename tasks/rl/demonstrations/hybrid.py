"""Fine-tuning where the policy fails, reinforcement where it does not: Hybrid Post-Training, Lv et al. 2025 (arXiv:2509.04419),
section 3.3."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from tasks.rl.demonstrations.base import DemonstrationBatch, Demonstrations, DemonstrationSelector, mean_scores


class Switching(DemonstrationSelector):
    """Shows the demonstration of each problem of which no larger share than `gate` was solved, in the place of its answers."""

    def __init__(self, gate: float, weight: float) -> None:
        self._gate, self._weight = gate, weight

    def select(self, places_G: Sequence[int], scores_GS: Tensor) -> DemonstrationBatch:
        instead_G = mean_scores(scores_GS) <= self._gate  # of a problem without a verdict nothing is known: NaN is not
        places_D = [place for place, instead in zip(places_G, instead_G.tolist(), strict=True) if instead]
        return DemonstrationBatch(places_D, instead_G, self._weight / len(places_G))


class Hybrid(Demonstrations):
    """A switch for each problem: either the policy's loss or that of its demonstration counts, by the share of its answers that
    are right; a demonstration has the share of one problem in the loss, the mean of its tokens' negative log-likelihoods.

    Differs from the paper: the policy's loss is that of rl.loss (there: Dr. GRPO's), so its own mean may weigh answers by
    their tokens; the likelihood is that at rl.temperature; the demonstrations of a rollout are dealt to the updates of a pass
    in turn, so with minibatches one may stand in another update than its problem."""

    name: Literal["hybrid"] = "hybrid"
    gate: float = Field(
        0.0, ge=0, lt=1, description="the demonstration is learned from where no larger share of answers is right"
    )
    weight: float = Field(1.0, gt=0, description="of a demonstration beside the answers to a problem")

    def max_demonstrations(self, problems: int) -> int:
        return problems

    def selector(self) -> DemonstrationSelector:
        return Switching(self.gate, self.weight)

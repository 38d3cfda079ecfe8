"""Demonstrations of the problems at which all answers failed, gathered until they make a batch: ReLIFT, Ma et al. 2025
(arXiv:2506.07527), section 3."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tasks.rl.demonstrations.base import DemonstrationBatch, Demonstrations, DemonstrationSelector, mean_scores


class Gathering(DemonstrationSelector):
    """Keeps problems at which all answers failed, each once, and shows the demonstrations of the first `batch` of them as soon
    as there are so many."""

    def __init__(self, batch: int, weight: float) -> None:
        self._batch, self._weight = batch, weight
        self._waiting: list[int] = []

    def select(self, places_G: Sequence[int], scores_GS: Tensor) -> DemonstrationBatch:
        failed = [place for place, share in zip(places_G, mean_scores(scores_GS).tolist(), strict=True) if share == 0]
        self._waiting = list(dict.fromkeys(self._waiting + failed))
        nothing_G = torch.zeros(len(places_G), dtype=torch.bool)
        if len(self._waiting) < self._batch:
            return DemonstrationBatch([], nothing_G, 0.0)
        now, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
        return DemonstrationBatch(now, nothing_G, self._weight / self._batch)

    def state(self) -> dict[str, Tensor]:
        return {"waiting": torch.tensor(self._waiting, dtype=torch.int64)} if self._waiting else {}

    def load(self, state: dict[str, Tensor]) -> None:
        self._waiting = state["waiting"].tolist() if state else []


class Interleaved(Demonstrations):
    """Reinforcement throughout; the hardest questions are learned from by fine-tuning, a batch at a time, which has the weight
    of the policy's loss where it comes.

    Differs from the paper: the batch joins the updates of the rollout that filled it, where the paper makes an update of it
    alone; the solutions are the problem set's demonstrations, where the paper asks a stronger model for them; the likelihood
    is that at rl.temperature."""

    name: Literal["interleaved"] = "interleaved"
    batch: int = Field(32, gt=0, description="problems that are gathered before their demonstrations are learned from")
    weight: float = Field(1.0, gt=0, description="of a batch of demonstrations beside the answers of a rollout")

    def max_demonstrations(self, problems: int) -> int:
        return self.batch

    def selector(self) -> DemonstrationSelector:
        return Gathering(self.batch, self.weight)

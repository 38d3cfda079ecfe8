"""The greedy answer as the baseline: ReMax, Li et al. 2023 (arXiv:2310.10505)."""

from typing import ClassVar, Literal

from torch import Tensor

from lm.config import Config
from tasks.rl.advantages.base import Baseline, subtract_baseline


class Remax(Config):
    name: Literal["remax"] = "remax"
    baseline: ClassVar[Baseline] = "greedy"

    def __call__(self, rewards_GS: Tensor, mask_GS: Tensor, baseline_G: Tensor | None = None) -> Tensor:
        """Raises ValueError without the greedy rewards."""
        if baseline_G is None:
            raise ValueError("remax needs baseline_G, the reward of the greedy answer to each problem")
        return subtract_baseline(rewards_GS, mask_GS, baseline_G)

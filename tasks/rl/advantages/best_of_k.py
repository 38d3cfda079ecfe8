"""What an answer adds to the best of k: Pass@K Policy Optimization, Walder and Karkhanis 2025 (arXiv:2505.15201)."""

from math import comb
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import Config
from tasks.rl.advantages.base import Baseline


def added_to_the_best(rewards_GS: Tensor, mask_GS: Tensor, k: int) -> Tensor:
    """advantages_GS: the mean, over the sets of k valid samples of the group, of the best reward less that of the set without
    the sample, 0 in a set that it is not in. A group with fewer than k valid samples teaches nothing.

    With rewards in ascending order the sample at place r adds, beside the q-th as the best of k - 1 others, their difference:
    sum over q < r of C(q, k - 2) (reward_r - reward_q) / C(valid, k). Its sum of advantage times score is an unbiased
    estimate of the gradient of E[best of k].
    """
    valid_GS = mask_GS > 0
    num_valid_G = valid_GS.sum(1)
    sorted_GS, order_GS = torch.where(valid_GS, rewards_GS, torch.inf).sort(dim=1, stable=True)
    sorted_GS = torch.where(sorted_GS.isinf(), 0.0, sorted_GS)
    S = rewards_GS.shape[1]
    ways_S = torch.tensor([float(comb(q, k - 2)) for q in range(S)], device=rewards_GS.device)
    below_SS = torch.ones(S, S, device=rewards_GS.device).tril(-1)
    added_GS = ((sorted_GS[:, :, None] - sorted_GS[:, None, :]) * (below_SS * ways_S)).sum(2)
    sets_G = torch.tensor([float(comb(n, k)) for n in num_valid_G.tolist()], device=rewards_GS.device)
    added_GS = added_GS / sets_G.clamp(min=1)[:, None]
    added_GS = torch.zeros_like(added_GS).scatter(1, order_GS, added_GS)
    return torch.where(valid_GS & (num_valid_G >= k)[:, None], added_GS, 0.0)


class BestOfK(Config):
    """Advantages that reward an answer for being better than the others of its set, and never punish one: for models that are
    asked several times, as pass@k counts them. The estimator with the baseline of the set without the sample ("leave one out
    minus one"). Differs from the paper: k stays what it is, and is not lowered as the run goes on."""

    name: Literal["best_of_k"] = "best_of_k"
    baseline: ClassVar[Baseline] = "none"
    k: int = Field(4, ge=2, description="answers of which the best counts; rl.samples at most")

    def __call__(self, rewards_GS: Tensor, mask_GS: Tensor, baseline_G: Tensor | None = None) -> Tensor:
        return added_to_the_best(rewards_GS, mask_GS, self.k)

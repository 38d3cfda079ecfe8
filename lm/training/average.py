"""A mean of the weights that training passes through: one copy of the model, made when the first share of it is due."""

from collections.abc import Callable

import torch
from torch import Tensor


class RunningAverage:
    """share(step, total steps) is what the weights after that step count for in the mean so far, from 0 to 1."""

    def __init__(self, share: Callable[[int, int], float]) -> None:
        self._share = share
        self.mean: dict[str, Tensor] = {}

    def begins(self, total_steps: int) -> bool:
        """Whether it is ever a copy of its own, so that a mean is held beside the weights."""
        return any(self._share(step, total_steps) for step in range(total_steps - 1))

    @torch.no_grad()
    def after(self, step: int, total_steps: int, weights: dict[str, Tensor]) -> None:
        """mean += share (weights - mean); a share of 1 copies the weights, bit by bit."""
        share = self._share(step, total_steps)
        if not share:
            return
        if share == 1 and step + 1 == total_steps:
            self.mean = {}  # the weights themselves, without a copy
            return
        if share == 1 or not self.mean:
            self.mean = {name: weight.detach().clone() for name, weight in weights.items()}
            return
        torch._foreach_lerp_(list(self.mean.values()), [weights[name].detach() for name in self.mean], share)

    @torch.no_grad()
    def copy_to(self, weights: dict[str, Tensor]) -> None:
        """Leave the mean in the weights; nothing where none counted."""
        for name, mean in self.mean.items():
            weights[name].copy_(mean)

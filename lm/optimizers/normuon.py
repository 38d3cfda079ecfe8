"""NorMuon: Muon whose rows, a neuron each, are divided by the running size of their updates: Li et al. 2025.

arXiv:2510.05491, algorithm 1. Differs from the paper: the momentum looks ahead, as Muon's does here (`nesterov: false` is the
paper's), and the embedding and the output head decay as matrices do.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.linears.base import Roles
from lm.optimizers.base import Named, State
from lm.optimizers.orthogonal import Iteration, MuonOptimizer, OrthogonalConfig

# Beside the root of a mean square that is 1 / (longer side) in a matrix that is orthogonal
EPS = 1e-8


def by_rows_(updates: list[Tensor], squares: list[Tensor], beta2: float) -> list[Tensor]:
    """Each (O, I) update with its rows divided by the roots of `squares`, (O, 1), which have been brought up to date in place:
    running means, from 0 on, of the mean square of a row."""
    # Rows in a row: the order of a sum goes by the layout, which turned matrices have from the rank that made them alone
    updates = [update.contiguous() for update in updates]
    torch._foreach_lerp_(squares, [update.square().mean(1, keepdim=True) for update in updates], 1 - beta2)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_add_(roots, EPS)
    return [update / root for update, root in zip(updates, roots, strict=True)]


class NorMuonOptimizer(MuonOptimizer):
    """Holds momentum of every hidden matrix and a number for each of its rows, and Adam's state of every other weight."""

    def direction(
        self, weights: list[Tensor], state: State, group: dict[str, Any]
    ) -> Callable[[list[Tensor], Iteration], tuple[list[Tensor], list[int]]]:
        return partial(self._normalised, weights, state["row_square"], group["beta2"])

    def _normalised(
        self,
        weights: list[Tensor],
        squares: list[Tensor],
        beta2: float,
        updates: list[Tensor],
        iteration: Iteration,
    ) -> tuple[list[Tensor], list[int]]:
        """Rows are divided where they lie, and the whole is given the norm of an orthogonal matrix, sqrt(min(O, I)), so that
        muon_ moves each weight by exactly 0.2 lr root-mean-square: line 10 of the algorithm."""
        found, sides = self.orthogonal(weights, updates, iteration)
        rows = by_rows_(found, squares, beta2)
        sums = [torch.stack([row.square().sum(), row.new_tensor(row.numel())]) for row in rows]
        for row, side, total in zip(rows, sides, self.totals(weights, sums), strict=True):
            row.mul_(torch.sqrt(total[1] / total[0].clamp(min=EPS**2)) / math.sqrt(side))
        return rows, sides


class NorMuon(OrthogonalConfig):
    name: Literal["normuon"] = "normuon"
    beta2: float = Field(0.95, ge=0, lt=1, description="memory of a row's mean square")

    def build(self, named_parameters: Named, roles: Roles) -> NorMuonOptimizer:
        """The optimizer of these weights."""
        groups = self.groups(named_parameters, roles, ("momentum", "row_square"))
        return NorMuonOptimizer(groups, self.settings())

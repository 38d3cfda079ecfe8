"""MuonEq: Muon whose momentum is balanced before it is orthogonalised: Chang et al. 2026 (arXiv:2603.28254).

Rows, columns or both are divided by their Euclidean norms, those of the matrix as it was; rows are the paper's choice for
hidden matrices. As in the authors' code, a squared norm has 1e-8 beside it. Differs from the paper: step size and weight decay
are those of Muon here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from lm.linears.base import Roles
from lm.optimizers.base import Named, State
from lm.optimizers.orthogonal import Iteration, MuonOptimizer, OrthogonalConfig

Sides = Literal["rows", "columns", "both"]
# Beside a squared norm
EPS = 1e-8


def divided(update_OI: Tensor, rows_O1: Tensor | None, columns_I: Tensor | None) -> Tensor:
    """The update with its rows, columns or both divided by the roots of these squared norms."""
    for squares in (rows_O1, columns_I):
        if squares is not None:
            update_OI = update_OI * (squares + EPS).rsqrt()
    return update_OI


class MuonEqOptimizer(MuonOptimizer):
    """Holds what Muon's does: balance needs no memory."""

    def direction(
        self, weights: list[Tensor], state: State, group: dict[str, Any]
    ) -> Callable[[list[Tensor], Iteration], tuple[list[Tensor], list[int]]]:
        return partial(self._balanced, weights, group["sides"])

    def _balanced(
        self, weights: list[Tensor], sides: Sides, updates: list[Tensor], iteration: Iteration
    ) -> tuple[list[Tensor], list[int]]:
        rows: list[Any] = [None] * len(updates)
        columns: list[Any] = [None] * len(updates)
        if sides != "columns":
            rows = [update.square().sum(1, keepdim=True) for update in updates]
        if sides != "rows":
            columns = self._columns(weights, [update.square().sum(0) for update in updates])
        return self.orthogonal(weights, list(map(divided, updates, rows, columns)), iteration)

    def _columns(self, weights: list[Tensor], sums: list[Tensor]) -> list[Tensor]:
        """Squared norms of whole columns, of which these are the sums over the rows that are here."""
        found = list(sums)
        for width in sorted({len(one) for one in sums}):  # sums over ranks are of one shape
            places = [place for place, one in enumerate(sums) if len(one) == width]
            whole = self.totals([weights[place] for place in places], [sums[place] for place in places])
            for place, one in zip(places, whole, strict=True):
                found[place] = one
        return found


class MuonEq(OrthogonalConfig):
    name: Literal["muoneq"] = "muoneq"
    sides: Sides = Field("rows", description="of the momentum that are divided by their norms")

    def build(self, named_parameters: Named, roles: Roles) -> MuonEqOptimizer:
        """The optimizer of these weights."""
        return MuonEqOptimizer(self.groups(named_parameters, roles), self.settings())

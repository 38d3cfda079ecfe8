"""Compute-equivalent gain: Davidson et al. 2023 (arXiv:2312.07413): how many times the FLOP of an arm the baseline needs for
the arm's loss.

Both are fitted as L = E + A / C^a, and gain(C) = C_baseline(L_arm(C)) / C. Differs from the paper: both curves are fitted to
our own runs, where it reads published scores; FLOP are of all training, not of pretraining alone; and `tokenmill study`, whose
runs have one budget, gives points of their curves before the rate decays in place of runs that each ended at their budget.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from flows.arena.fits.law import CannotFit, Floats, Law
from flows.arena.fits.points import columns
from flows.arena.fits.power import fit_law, inverse_power, power
from flows.arena.fits.residuals import Resampling

SIDES = ("baseline", "arm")


def gain(values: Floats, flop: Floats) -> Floats:
    """FLOP of the baseline at the arm's loss, over `flop`; the baseline's E, A, a stand first on the first axis, then the
    arm's.

    Infinite where the arm's loss is at or below the baseline's floor.
    """
    return inverse_power(values[:3], power(values[3:6], flop)) / flop


@dataclass(frozen=True, eq=False)
class Gain(Law):
    """A gain at any budget; the parameter `gain` is that at `flop`, the largest budget that the arm ran with."""

    flop: float
    extrapolated: bool  # whether the arm's loss there lies outside the losses of the baseline's runs

    def report(self) -> dict[str, Any]:
        """The law as JSON, and where its gain was read."""
        return super().report() | {"flop": self.flop, "extrapolated": self.extrapolated}


class ComputeGain(Resampling):
    name: Literal["compute_gain"] = "compute_gain"

    def __call__(
        self, baseline_flop: ArrayLike, baseline_losses: ArrayLike, arm_flop: ArrayLike, arm_losses: ArrayLike
    ) -> Gain:
        """Gain of an arm over its baseline, from runs of both at several budgets, or from points of curves whose rate is
        the same throughout; predicts the gain at FLOP of the arm.

        Raises CannotFit, naming which of the two, for fewer than 4 different budgets, equal losses, and losses that do
        not fall.
        """
        given = zip(SIDES, [(baseline_flop, baseline_losses), (arm_flop, arm_losses)], strict=True)
        runs, laws = [], []
        for stream, (side, (flop, losses)) in enumerate(given):
            try:
                spent, loss = columns(flop=flop, losses=losses)
                runs.append((spent, loss))
                laws.append(fit_law(self, "flop", spent, loss, stream)[0])
            except CannotFit as error:
                raise CannotFit(f"{side}: {error}") from None
        values = np.concatenate([law.values for law in laws])
        draws = np.concatenate([law.draws for law in laws], axis=1)
        measured, largest = runs[0][1], runs[1][0][-1]
        return Gain(
            "gain(C) = (A_baseline / (L_arm(C) - E_baseline))^(1 / a_baseline) / C, L_arm(C) = E_arm + A_arm / C^a_arm",
            (*(f"{name}_{side}" for side in SIDES for name in ("E", "A", "a")), "gain"),
            np.append(values, gain(values, largest)),
            np.column_stack([draws, gain(draws.T, largest)]),
            gain,
            np.concatenate([law.residuals for law in laws]),
            self.level,
            float(largest),
            not bool(measured.min() <= laws[1].predict(largest) <= measured.max()),
        )

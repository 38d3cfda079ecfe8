"""The critical batch size: McCandlish et al. 2018 (arXiv:1812.06162, section 2.3), measured as in Shallue et al. 2019
(arXiv:1811.03600): what one target takes at several batch sizes, the learning rate tuned at each.

(S / S_min - 1)(E / E_min - 1) = 1 for S steps and E = B S tokens is the straight line E = E_min + S_min B: few tokens at a
small batch, few steps at a large one, and at B_crit = E_min / S_min twice the least of both. Differs from the paper: E counts
tokens, not examples, and the line is fitted by least squares of relative errors, neither part below 0.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from flows.arena.fits.law import CannotFit, Floats, Law
from flows.arena.fits.lines import fit_line
from flows.arena.fits.points import columns, need
from flows.arena.fits.residuals import Resampling


def tokens_to_target(values: Floats, batch_tokens: Floats) -> Floats:
    """E_min + S_min B: tokens to the target in steps of B tokens; over B, the steps. The two parameters stand first in
    `values`."""
    least_tokens, least_steps = values[:2]
    return least_tokens + least_steps * batch_tokens


def fit_trade(batch_N: Floats, tokens_RN: Floats) -> Floats:
    """E_min, S_min and B_crit (R, 3); B_crit is infinite where larger batches cost nothing."""
    least_tokens, least_steps = fit_line(np.broadcast_to(batch_N, tokens_RN.shape), tokens_RN, np.ones_like(tokens_RN))
    with np.errstate(divide="ignore"):
        return np.stack([least_tokens, least_steps, least_tokens / least_steps], axis=1)


class CriticalBatch(Resampling):
    name: Literal["critical_batch"] = "critical_batch"

    def __call__(self, batch_tokens: ArrayLike, tokens: ArrayLike) -> Law:
        """Law of runs that reached one target after `tokens`, in steps of `batch_tokens` each; predicts the tokens of a
        batch size.

        Raises CannotFit for fewer than 3 different batch sizes, and where all of them lie on one side of the critical one.
        """
        batch, spent = columns(batch_tokens=batch_tokens, tokens=tokens)
        need(3, batch_tokens=batch)
        values = fit_trade(batch, spent[None])[0]
        if values[1] == 0:
            raise CannotFit(
                "tokens to the target do not grow with batch_tokens: all lie far below the critical batch, try larger"
            )
        if values[0] == 0:
            raise CannotFit(
                "steps to the target do not fall with batch_tokens: all lie far above the critical batch, try smaller"
            )
        fitted = tokens_to_target(values, batch)
        residuals = np.log(spent / fitted)
        draws = fit_trade(batch, self.samples(fitted, residuals, 2).measured)
        formula, names = "E = E_min + S_min B, B_crit = E_min / S_min", ("E_min", "S_min", "B_crit")
        return Law(formula, names, values, draws, tokens_to_target, residuals, self.level)

"""Loss over tokens at one size, L = E + A / D^a: Hoffmann et al. 2022 (arXiv:2203.15556, section 3.3) with the size fixed.

E then holds what the size costs, too. Differs from the paper: least squares of relative errors, where it has a Huber loss of
logs (parameters.py does as it does); E is at least 0.
"""

from typing import Literal

from numpy.typing import ArrayLike

from flows.arena.fits.law import Law
from flows.arena.fits.points import columns
from flows.arena.fits.power import fit_law
from flows.arena.fits.residuals import Resampling


class Tokens(Resampling):
    name: Literal["tokens"] = "tokens"

    def __call__(self, tokens: ArrayLike, losses: ArrayLike) -> Law:
        """Law of runs, each trained to its end on so many tokens; predicts the loss of `tokens`.

        Raises CannotFit for fewer than 4 different tokens, equal losses, and losses that do not fall.
        """
        seen, loss = columns(tokens=tokens, losses=losses)
        return fit_law(self, "tokens", seen, loss)[0]

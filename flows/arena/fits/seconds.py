"""Loss over seconds of a machine, the time-based law: Inbar and Sernau 2024 (arXiv:2406.18922).

Seconds a token are linear in what a token moves through memory, `copies`, and the Chinchilla law is rewritten for a time T:
L = E + A / N^alpha + B / D^beta with D = T / (c copies + d). Shapes of equal parameters then differ by their pace alone, and
wide ones are faster than deep ones. Differs from the paper: both parts are fitted to our own runs, the pace by least squares
of relative errors with neither part below 0; memory copies are counted for matrix products alone, those of our block. Runs of
one size are fitted, too: A is then 0, and E holds what the size costs.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from flows.arena.fits.law import Floats, Law
from flows.arena.fits.lines import fit_line
from flows.arena.fits.parameters import NAMES, chinchilla, fit_chinchilla
from flows.arena.fits.points import columns
from flows.arena.fits.power import fit_law
from flows.arena.fits.residuals import Resampling


def product_copies(rows: int, inner: int, outer: int) -> int:
    """Numbers that a matrix product reads and writes, each once: rows inner + inner outer + rows outer."""
    return rows * inner + inner * outer + rows * outer


def copies_per_token(
    depth: int, width: int, heads: int, feed_forward: int, vocabulary: int, length: int, sequences: int
) -> float:
    """Numbers that a token moves through memory in the forward pass of a decoder with gated feed-forward layers, over steps of
    `sequences` of `length` tokens: by matrix products alone, with the weights read once a step."""
    tokens, head = length * sequences, width // heads
    weights = [(width, 3 * width), (width, width), (width, 2 * feed_forward), (feed_forward, width)]
    block = sum(product_copies(tokens, inner, outer) for inner, outer in weights)
    block += sequences * heads * (product_copies(length, head, length) + product_copies(length, length, head))
    return (depth * block + product_copies(tokens, width, vocabulary)) / tokens


def loss_after(values: Floats, parameters: Floats, copies: Floats, seconds: Floats) -> Floats:
    """E + A / N^alpha + B / D^beta with D = seconds / (c copies + d), the seven first on the first axis of `values`."""
    per_copy, fixed = values[5:7]
    return chinchilla(values[:5], parameters, seconds / (fixed + per_copy * copies))


def fit_pace(copies_N: Floats, pace_RN: Floats) -> Floats:
    """c and d (R, 2) of seconds a token = c copies + d; c is 0 where all runs have the same copies."""
    used = np.ones_like(pace_RN)
    if copies_N.min() == copies_N.max():
        constant = (1 / pace_RN).sum(-1) / (1 / pace_RN**2).sum(-1)
        return np.stack([np.zeros_like(constant), constant], axis=1)
    fixed, per_copy = fit_line(np.broadcast_to(copies_N, pace_RN.shape), pace_RN, used)
    return np.stack([per_copy, fixed], axis=1)


class Seconds(Resampling):
    name: Literal["seconds"] = "seconds"
    delta: float = Field(1e-3, gt=0, description="of the Huber loss, as in the law over parameters")

    def __call__(
        self, parameters: ArrayLike, copies: ArrayLike, tokens: ArrayLike, seconds: ArrayLike, losses: ArrayLike
    ) -> Law:
        """Law of runs of one size, or of several, on one machine; predicts the loss of `parameters, copies, seconds`.

        Raises CannotFit as the law over parameters does, for runs of one size as the law over tokens does.
        """
        count, moved, seen, spent, loss = columns(
            parameters=parameters, copies=copies, tokens=tokens, seconds=seconds, losses=losses
        )
        if len(np.unique(count)) == 1:
            by_tokens, losses_by_tokens = columns(tokens=seen, losses=loss)
            law, _ = fit_law(self, "tokens", by_tokens, losses_by_tokens)
            place = [0, 3, 4]
            values, draws = np.zeros(len(NAMES)), np.zeros((self.resamples, len(NAMES)))
            values[place], draws[:, place] = law.values, law.draws
        else:
            law = fit_chinchilla(self, self.delta, *columns(parameters=count, tokens=seen, losses=loss))
            values, draws = law.values, law.draws
        measured = spent / seen
        pace = fit_pace(moved, measured[None])[0]
        fitted = pace[1] + pace[0] * moved
        of_pace = 1 if pace[0] == 0 else 2
        redrawn = self.samples(fitted, np.log(measured / fitted), of_pace, stream=1).measured
        return Law(
            "L = E + A / N^alpha + B / D^beta, D = seconds / (c copies + d)",
            (*NAMES, "c", "d"),
            np.append(values, pace),
            np.column_stack([draws, fit_pace(moved, redrawn)]),
            loss_after,
            law.residuals,
            self.level,
        )

"""Columns of numbers as they come from runs, checked and put in an order of their own."""

import numpy as np
from numpy.typing import ArrayLike

from flows.arena.fits.law import CannotFit, Floats


def columns(**given: ArrayLike) -> tuple[Floats, ...]:
    """The columns as float arrays (N,), their rows sorted by the first column, then by the next: sums do not depend on the
    order that runs came in.

    Raises CannotFit for columns of unequal length, and for what is no finite number above 0.
    """
    arrays = {name: _numbers(name, column) for name, column in given.items()}
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{len(array)} {name}" for name, array in arrays.items())
        raise CannotFit(f"each run needs a number of each kind: got {lengths}")
    order = np.lexsort(tuple(reversed(arrays.values())))
    return tuple(array[order] for array in arrays.values())


def need(least: int, **given: Floats) -> None:
    """Raises CannotFit where a column has fewer than `least` different numbers."""
    for name, column in given.items():
        if (found := len(np.unique(column))) < least:
            raise CannotFit(f"needs {least} or more different {name}: got {found}")


def need_runs(least: int, column: Floats) -> None:
    """Raises CannotFit for fewer than `least` runs: as many as the law has parameters leave nothing to tell its error by."""
    if len(column) < least:
        raise CannotFit(f"needs {least} or more runs: got {len(column)}")


def need_unequal(name: str, column: Floats) -> None:
    """Raises CannotFit where all numbers of a column are the same."""
    if np.all(column == column[0]):
        raise CannotFit(f"all {len(column)} {name} are {column[0]:g}: there is nothing to fit")


def _numbers(name: str, column: ArrayLike) -> Floats:
    try:
        array = np.asarray(column, dtype=float)
    except (TypeError, ValueError):
        raise CannotFit(f"{name} must be numbers, one a run") from None
    if array.ndim != 1:
        raise CannotFit(f"{name} must be one number a run: got an array of shape {array.shape}")
    if len(bad := np.flatnonzero(~(np.isfinite(array) & (array > 0)))):
        raise CannotFit(
            f"{name} must be finite and above 0: got {array[bad[0]]:g} for run {bad[0] + 1} of {len(array)}"
        )
    return array

"""From what is true of each document to what is said of it."""

import numpy as np


def first_reasons(checks: dict[str, np.ndarray]) -> np.ndarray:
    """Name of the first check, of N bools each, that is true of a document, for N documents; None where none is."""
    reasons = np.full(len(next(iter(checks.values()))), None, dtype=object)
    for name in reversed(checks):
        reasons[checks[name]] = name
    return reasons

"""What a run had spent between two points of its curve."""

from collections.abc import Sequence

import numpy as np


def flop_after(tokens: float, at: Sequence[float], flops: Sequence[float]) -> float:
    """FLOP of a run after so many tokens, given those up to each point of its curve: linear between points, from 0 on."""
    return float(np.interp(tokens, (0.0, *at), (0.0, *flops)))

"""How sure a share is that was counted."""

import math


def wilson(right: float, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95% score interval of a proportion (Wilson 1927); (0, 1) when there is nothing to count."""
    if total == 0:
        return 0.0, 1.0
    share, spread = right / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    # at the ends the two terms are equal, and rounding must not leave 1e-19 between them
    low = 0.0 if right == 0 else max(0.0, middle - half)
    return low, 1.0 if right == total else min(1.0, middle + half)

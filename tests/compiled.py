"""What compiled code leaves behind."""

import gc
from collections.abc import Callable

from numba.core.runtime import _nrt_python, rtsys


def count_leaked_arrays(work: Callable[[], object], times: int = 3) -> int:
    """How many more arrays of compiled code there are after so many calls than after the first."""
    _nrt_python.memsys_enable_stats()
    counts = []
    for calls in (1, times):
        for _ in range(calls):
            work()
        gc.collect()
        found = rtsys.get_allocation_stats()
        counts.append(found.alloc - found.free)
    return counts[1] - counts[0]

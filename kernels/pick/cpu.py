"""Drawing a token on a CPU: some rows at a time, whose tensors stay in its cache and in the heap.

Letters: R rows, V vocabulary.
"""

import torch
from torch import Tensor

from kernels.pick import reference

# Probabilities of some rows in fp64. What all rows take is given back to the system and faulted in anew at every token, as luck
# with the heap has it: 128 rows of 32768 took 45 ms, of which 11 are left, and those of 2048, within a step, 4.8 ms, and now 2.
CHUNK_BYTES = 2**19


def pick(logits_RV: Tensor, temperature: float, points_R: Tensor) -> tuple[Tensor, Tensor]:
    """(ids_R, logps_R) of the reference, to the bit."""
    rows = max(1, CHUNK_BYTES // (8 * max(1, logits_RV.shape[1])))
    if len(logits_RV) <= rows:
        return reference.pick(logits_RV, temperature, points_R)
    some = zip(logits_RV.split(rows), points_R.split(rows), strict=True)
    ids, logps = zip(*(reference.pick(logits, temperature, points) for logits, points in some), strict=True)
    return torch.cat(ids), torch.cat(logps)

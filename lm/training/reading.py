"""What the host wants to know of a step, read from the device at once: each reading by itself would be a wait until the device
has done all that was queued before."""

from collections.abc import Mapping

import torch
from torch import Tensor


def read(
    numbers: Mapping[str, Tensor | float], traces: Tensor, device: torch.device
) -> tuple[dict[str, float], Tensor]:
    """(the numbers, the traces as float64 in host memory), for one wait of the host. numbers: scalars; those that are not on
    the device cost nothing. traces: more of them, in one dimension.

    float64 holds every number that a training step has in its own type, so none changes.
    """
    there = {n: x.detach().double().view(1) for n, x in numbers.items() if isinstance(x, Tensor) and x.device == device}
    stacked = torch.cat([*there.values(), traces.detach().to(device, torch.float64, non_blocking=True)]).cpu()
    known = dict(zip(there, stacked[: len(there)].tolist(), strict=True))
    return {n: known[n] if n in known else float(x) for n, x in numbers.items()}, stacked[len(there) :]

"""Tensors from host memory to a device that its host need not wait for."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

Tensors = tuple[Any, ...]  # or None, for one that is not there


def to_device(tensors: Iterable[Tensor | None], device: torch.device) -> Tensors:
    """The tensors on the device, of which the host waits for none: a GPU copies pinned memory by itself."""
    return tuple(x if x is None else x.to(device, non_blocking=True) for x in pin_memory(tensors, device))


def pin_memory(tensors: Iterable[Tensor | None], device: torch.device) -> Tensors:
    """The tensors in memory from which the device copies by itself; a CPU needs none."""
    given = tuple(tensors)
    if device.type != "cuda":
        return given
    return tuple(x if x is None or x.is_pinned() else x.pin_memory() for x in given)

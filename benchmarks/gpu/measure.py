"""Time, memory and distance, on a GPU by its own clock and allocator."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor


def synchronize(device: torch.device) -> None:
    """Wait until all that was queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# Cycles that a GPU is kept busy before what is timed: some 5 ms at 1.98 GHz, in which a host launches about a hundred kernels
AHEAD = 10_000_000


def milliseconds(
    call: Callable[[], object], device: torch.device, repeats: int = 10, warm: int = 3, host: bool = False
) -> float:
    """The median of so many calls after others that warm up, on a GPU between two events. host: what the host takes to launch
    the call counts, too, as where the GPU has nothing else to do; else the GPU is kept busy meanwhile, as it is in training."""
    for _ in range(warm):
        call()
    synchronize(device)
    return median(once(call, device, host) for _ in range(repeats))


def once(call: Callable[[], object], device: torch.device, host: bool = False) -> float:
    """Milliseconds of one call."""
    if device.type != "cuda":
        began = time.perf_counter()
        call()
        return (time.perf_counter() - began) * 1e3
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    if not host:
        torch.cuda._sleep(AHEAD)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def peak_above(call: Callable[[], object], device: torch.device) -> float | None:
    """GB that a call has on a GPU at most above what was there before it, its result included."""
    if device.type != "cuda":
        call()
        return None
    synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    kept = call()
    synchronize(device)
    del kept
    return (torch.cuda.max_memory_allocated(device) - before) / 1e9


def peak_memory(device: torch.device) -> float | None:
    """GB that the process had on a GPU at most."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def distance(got: Tensor, wanted: Tensor) -> float:
    """|got - wanted| / |wanted|, Frobenius norms."""
    return float((got.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-30))

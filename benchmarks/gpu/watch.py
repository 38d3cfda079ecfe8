"""What a training run is seen to do: seconds of its steps, its losses, where the host waits for the card, and a profile."""

import time
import warnings
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.check import Check
from benchmarks.gpu.measure import peak_memory, synchronize
from lm.training.flops import peak_flops
from tasks.core.log import Log

FIRST = 2  # steps that compile and fill caches
SHOWN = 12  # of a profile's kernels


class Watch(Log):
    """The log of a run of `steps` steps of so many tokens, each of so many FLOP. With `look` it counts what makes the host wait
    in the last step but one, and profiles the last; neither is among the steps timed."""

    def __init__(self, check: Check, steps: int, tokens: int, flops: float, look: bool = False) -> None:
        self._check, self._steps, self._tokens, self._flops, self._look = check, steps, tokens, flops, look
        self._times: list[float] = []
        self._losses: list[float] = []
        self._waits: list[warnings.WarningMessage] | None = None
        self._profile: profile | None = None
        self._looking = ExitStack()
        self._began = time.perf_counter()

    def __call__(self, step: int, **values: float) -> None:
        self._losses.append(values["loss"])

    def progress(self, done: int, total: int, unit: str = "step", **shown: float) -> None:
        """A step is done when the card is done with it."""
        synchronize(self._check.device)
        self._times.append(time.perf_counter() - self._began)
        self._looking.close()
        if self._look and self._check.on_gpu and done == self._steps - 2:
            self._count_waits()
        elif self._look and done == self._steps - 1:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._check.on_gpu else [])]
            self._profile = self._looking.enter_context(profile(activities=activities))
        self._began = time.perf_counter()

    def _count_waits(self) -> None:
        self._waits = self._looking.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        self._looking.callback(torch.cuda.set_sync_debug_mode, "default")

    def finish(self) -> None:
        """Say all that was seen."""
        self._looking.close()
        check, timed = self._check, self._times[FIRST : len(self._times) - (2 if self._look else 0)]
        check.say("until the first step is done, compiling included", self._times[0], "s")
        seconds, peak = median(timed), peak_flops(check.device)
        check.say("step", seconds, "s", spread=[min(timed), max(timed)])
        check.say("tokens a second", self._tokens / seconds, "tok/s")
        check.say("MFU", 100 * self._tokens * self._flops / seconds / peak if peak else None, "%")
        check.say("peak memory", peak_memory(check.device), "GB")
        check.say("losses", ", ".join(f"{loss:.4f}" for loss in self._losses[:5]))
        if self._look:
            self._say_waits()
            self._say_profile(self._times[-1])

    def _say_waits(self) -> None:
        waits = [w for w in self._waits or [] if "synchroniz" in str(w.message)]
        places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in waits)
        check = self._check
        check.say(
            "host waits in a step", float(len(waits)) if check.on_gpu else None, places=dict(places.most_common(12))
        )

    def _say_profile(self, wall: float) -> None:
        """Where the time of the card goes, by kernel, and what share of the profiled step it was busy."""
        assert self._profile is not None
        on_gpu = self._check.on_gpu
        kernels = kernels_of(self._profile, on_gpu)
        busy = sum(spent for spent, _, _ in kernels) / 1e3
        self._check.say("device busy", 100 * busy / wall if on_gpu else None, "%", seconds=wall)
        text = "".join(f"{spent:10.2f} ms {count:6d} {name[:150]}\n" for spent, count, name in kernels)
        (self._check.out / f"profile_{self._check.item}.txt").write_text(text)
        for spent, count, name in kernels[:SHOWN]:
            self._check.say(f"kernel {name[:60]}", spent, "ms", calls=count)


def kernels_of(seen: profile, on_gpu: bool) -> list[tuple[float, int, str]]:
    """(milliseconds, calls, name) of what ran, the longest first: kernels on a GPU, else operators."""
    found: list[tuple[float, int, str]] = []
    for event in seen.key_averages():
        # a span that the host has named is no kernel
        named = event.is_user_annotation or "#" in event.key
        if not on_gpu or (event.device_type != torch.autograd.DeviceType.CPU and not named):
            spent: Any = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            found.append((spent / 1e3, event.count, event.key))
    return sorted(found, reverse=True)

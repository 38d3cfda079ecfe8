"""`make plan`: parameters, FLOP, peak memory and time of each training stage, before anything runs."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from flows.assignments import take_words
from flows.params import check, compose
from flows.workload import Workload, workloads
from lm.training.forecast import (
    MACHINES,
    PROCESS_BYTES,
    TRACKER_BYTES,
    UTILIZATION,
    Forecast,
    Machine,
    advice,
    forecast,
    machine_called,
)
from lm.training.loop import checkpoint_seconds
from lm.training.memory import memory_bytes
from lm.training.rehearsal import rehearse
from tasks.core.config import ConfigError
from tasks.core.process import use_threads

SIDE = 2048  # of the square matrices, as in benchmarks/roofs.py
HERE = "here"
# The part of PROCESS_BYTES that was imports, where it was measured.
IMPORTS_THERE = 409 * 2**20


def this_machine() -> Machine:
    """This machine, measured in half a second: the product of two matrices in fp32, and a copy of 256 MiB. With a GPU that
    MACHINES lists it is that one, with as much memory as the device has."""
    if torch.cuda.is_available():
        device = torch.device("cuda")
        name = torch.cuda.get_device_name(device)
        if known := machine_called(name):
            return replace(known, memory=memory_bytes(device))
        raise ConfigError(f"MACHINE: the GPU {name} is not in the table: name one of {', '.join(MACHINES)}")
    use_threads()
    a, b, out = (torch.randn(SIDE, SIDE) for _ in range(3))
    source, target = torch.ones(2**28, dtype=torch.uint8), torch.zeros(2**28, dtype=torch.uint8)
    product, copy = best_of(lambda: torch.mm(a, b, out=out)), best_of(lambda: target.copy_(source))
    memory = memory_bytes(torch.device("cpu"))
    return Machine("this machine", False, memory, 2 * SIDE**3 / product, 2 * 2**28 / copy)


def best_of(call: Callable[[], object], calls: int = 4) -> float:
    """Seconds of the fastest call: what the machine can do when nobody else uses it."""
    found = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return min(found)


def machine_of(name: str) -> Machine:
    """Raises ConfigError for a name that is not in the table."""
    if name == HERE:
        return this_machine()
    if name not in MACHINES:
        raise ConfigError(f"MACHINE: no machine {name!r} (allowed: {HERE}, {', '.join(MACHINES)})")
    return MACHINES[name]


@cache
def imports_bytes() -> int:
    """That a process has at most once it has imported what training needs, asked of one: pages of libraries count as they are
    mapped, by which two copies of one environment on one machine were 98 MiB apart."""
    code = (
        "import tasks.pretrain.stage, torch; torch.optim.SGD([torch.ones(1, requires_grad=True)]); print(peak_memory())"
    )
    code = f"from tasks.core.process import peak_memory; {code}"
    # sh starts it: ru_maxrss begins at what the parent had, which a fork hands down
    command = ["/bin/sh", "-c", 'PYTHONPATH="$PWD" "$0" -c "$1"; exit $?', sys.executable, code]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def forecast_of(work: Workload, machine: Machine) -> Forecast:
    """Of one stage on a machine."""
    on_this = not machine.gpu
    rehearsed = rehearse(work.step, work.recipe, work.steps, None if on_this else machine.memory, machine.gpu)
    with torch.device("meta"):
        step = work.step()
    tracker = 0 if os.environ.get("TOKENMILL_TRACKING") == "off" else TRACKER_BYTES
    process = (
        PROCESS_BYTES - IMPORTS_THERE + (imports_bytes() if on_this else IMPORTS_THERE) + tracker + work.data_bytes
    )
    return forecast(step, work.steps, work.tokens, rehearsed, process, machine, checkpoint_seconds())


def row_of(work: Workload, found: Forecast) -> list[str]:
    """The cells of a stage."""
    held = f"{found.positions:,} positions" if found.positions else "recomputed"
    return [
        work.stage, f"{found.parameters / 1e6:,.1f}M", f"{work.steps:,}", short(found.tokens), f"{found.flops:.2g}",
        f"{found.bytes / 1e9:.2f} GB", held, duration(found.seconds), "yes" if found.fits else "NO",
    ]  # fmt: skip


HEAD = ["stage", "parameters", "steps", "tokens", "FLOP", "peak memory", "a backward holds", "time", "fits"]


def short(number: float) -> str:
    """A count in three digits or so."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """In the unit that a person would use."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def table(rows: list[list[str]]) -> str:
    """Aligned; the first column to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(c.ljust(w) if n == 0 else c.rjust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )


def in_all(found: list[Forecast]) -> str:
    """The sum of the stages that train."""
    seconds, flops = sum(one.seconds for one in found), sum(one.flops for one in found)
    return f"in all {duration(seconds)} and {flops:.2g} FLOP, data stages and evaluation not counted"


def assumptions(machine: Machine) -> str:
    """What the figures rest on, and how far off they may be."""
    share = UTILIZATION["gpu" if machine.gpu else "cpu"]
    if machine.gpu:
        return (
            f"{machine.name}: {machine.memory / 1e9:.0f} GB, {machine.flops / 1e12:.0f} TFLOP/s in bf16, of which training "
            f"is taken to reach {share:.0%}.\nMemory is that of the GPU's tensors, uncompiled. Neither it nor the time has "
            "been compared with a run on a GPU."
        )
    return (
        f"{machine.name}: {machine.memory / 1e9:.0f} GB, {machine.flops / 1e9:.0f} GFLOP/s in fp32, of which training is "
        f"taken to reach {share:.0%}.\nMemory is that of the stage's process, uncompiled: within 5% in pretraining of 0.05 to "
        "80 million weights.\nTime follows the load: it is told for a machine that stays as busy as it was in the half "
        "second just now; rl and distill sample answers: within a factor of 2."
    )


def main() -> int:
    """Exit code: 0 everything fits, 1 a stage does not, 2 a mistake in what was asked for."""
    parser = argparse.ArgumentParser(prog="make plan", description=__doc__)
    take_words(parser)
    parser.add_argument("--machine", default=HERE, help=f"{', '.join(MACHINES)}; the one this runs on when absent")
    asked, root = parser.parse_args(), Path.cwd()
    try:
        params = compose(root, asked.preset, asked.set)
        check(root, params)
        machine, works = machine_of(asked.machine), workloads(params)
        found = [forecast_of(work, machine) for work in works]
    except (ConfigError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(table([HEAD, *(row_of(work, one) for work, one in zip(works, found, strict=True))]))
    print(in_all(found))
    print(assumptions(machine))
    short_of = [advice(work.stage, one, machine) for work, one in zip(works, found, strict=True) if not one.fits]
    for line in short_of:
        print(line, file=sys.stderr)
    return 1 if short_of else 0


if __name__ == "__main__":
    sys.exit(main())

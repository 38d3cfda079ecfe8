"""The forecast of a training stage on a machine: parameters, FLOP, peak memory and time, before anything runs."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from flows.forecast.dry_run import rehearse
from flows.forecast.estimate import (
    MACHINES,
    PROCESS_BYTES,
    TRACKER_BYTES,
    Forecast,
    Machine,
    forecast,
    machine_called,
)
from flows.forecast.imports import imports_bytes
from flows.forecast.unfilled import Unfilled, without_numbers
from lm.prompts.base import put_prompt
from lm.training.loop import checkpoint_seconds
from lm.training.memory import memory_bytes
from lm.training.prompted import Prompted
from tasks.about.needs import needs_of
from tasks.about.sections import Sections
from tasks.about.training import is_training_stage
from tasks.about.work import Step, Work
from tasks.core.config import ConfigError
from tasks.core.process import use_threads
from tasks.runner.settings import TRACKING

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


def works_of(params: dict[str, Any], stages: Iterable[str]) -> dict[str, Work]:
    """The training of each of these stages that trains; data stages would list their inputs, of which this needs none. Raises
    ConfigError for what cannot be told."""
    sections = Sections(params)
    with Unfilled():  # rooms count the weights of models on the meta device
        found = {stage: needs_of(stage, sections).work for stage in dict.fromkeys(stages) if is_training_stage(stage)}
    return {stage: work for stage, work in found.items() if work}


def step_of(work: Work) -> Step:
    """What is done in a step of the work, its models without numbers."""
    with without_numbers():
        return work.step()


@contextmanager
def told_of(stage: str, work: Work) -> Iterator[None]:
    """Within it a ConfigError about a key of the stage's recipe says whose it is."""
    try:
        yield
    except ConfigError as error:
        key = str(error).partition(":")[0].partition(".")[0]
        raise ConfigError(f"params.yaml: {stage}.{error}" if hasattr(work.recipe, key) else str(error)) from None


def forecast_of(work: Work, machine: Machine, imports: int | None = None) -> Forecast:
    """Forecast of one stage on a machine. imports: as import_training has told; None: a process of its own is asked."""
    on_this = not machine.gpu
    rehearsed = rehearse(work.step, work.recipe, work.steps, None if on_this else machine.memory, machine.gpu)
    step = step_of(work)
    with without_numbers():
        if isinstance(work.recipe, Prompted):
            put_prompt(step.model, work.recipe.soft_prompt)
    tracker = TRACKER_BYTES if TRACKING.read() == "on" else 0
    imported = IMPORTS_THERE if machine.gpu else imports or imports_bytes()
    process = PROCESS_BYTES - IMPORTS_THERE + imported + tracker + work.data_bytes
    return forecast(step, work.full_steps or work.steps, work.tokens, rehearsed, process, machine, checkpoint_seconds())

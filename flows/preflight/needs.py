"""What a run will take, told from the parameters: bytes of disk that stages write, and the peak memory of those that train."""

from collections.abc import Iterable
from typing import Any

import torch

from flows.forecast.estimate import Machine, advice
from flows.forecast.forecasts import config_errors_of_stage, forecast_of
from flows.preflight.resources import Needs
from lm.training.memory import memory_bytes
from tasks.about.needs import needs_of as needs_of_stage
from tasks.about.sections import Sections


def needs_of(params: dict[str, Any], stages: Iterable[str], imports: int | None = None) -> Needs:
    """Disk and memory that these stages need; the memory by `make plan`'s rehearsal on tensors without memory, imports as
    forecast_of has it. Raises ConfigError for what contracts.py has already told of, and for what training would refuse."""
    sections, here, found = Sections(params), this_memory(), Needs()
    for stage in dict.fromkeys(stages):
        needs = needs_of_stage(stage, sections)
        if needs.output:
            found.outputs[stage] = needs.output
            found.scratch[stage] = needs.output if needs.scratch is None else needs.scratch
        if needs.work:
            with config_errors_of_stage(stage, needs.work):
                told = forecast_of(needs.work, here, imports)
            found.memory[stage] = told.bytes
            found.advice[stage] = advice(stage, needs.work.lower, told, here).partition("; ")[2]
    return found


def this_memory() -> Machine:
    """This machine, for its memory alone: the speeds are 1, by which every stage lasts long enough for a checkpoint."""
    on_gpu = torch.cuda.is_available()
    return Machine("this machine", on_gpu, memory_bytes(torch.device("cuda" if on_gpu else "cpu")), 1.0, 1.0)

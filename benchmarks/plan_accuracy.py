"""What `make plan` says of a pretrain stage's memory beside the peak that the stage then has, in a process of its own.

Ours is the forecast, the peer the measurement: the ratio is measured over forecast, and the gate is 10%.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.contest import Arm, Contest, Metric, Sample
from benchmarks.staged import ROOT, peak_memory, prepare
from flows.forecast.estimate import Machine
from flows.forecast.forecasts import forecast_of, works_of
from flows.params.compose import compose
from lm.training.memory import memory_bytes

MEMORY = Metric("peak_memory_bytes", "bytes")
TOLERANCE = 0.1


@dataclass(frozen=True)
class Case:
    """What differs from the preset laptop: of the model, and rows a step, vocabulary, optimizer, average. The steps must last
    until mlflow is imported beside them, some 5 s."""

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    rows: int = 16
    vocab_size: int = 2048
    optimizer: str = "muon"
    average: str = "last"
    steps: int = 8

    def params(self) -> dict[str, Any]:
        """All parameters of such a run."""
        params = compose(ROOT, "laptop", [])
        length = self.model.get("context", 256)
        params["pretrain"] |= {
            "model": params["pretrain"]["model"] | self.model,
            "optimizer": {"name": self.optimizer},
            "average": {"name": self.average},
            "compile": "off",
            "samples_every": 0,
        }
        params["tokenize"]["method"] = {"name": "bpe", "vocab_size": self.vocab_size}
        params["curriculum"] |= {
            "method": {"name": "shuffled_packing", "sequence_length": length},
            "tokens_per_step": self.rows * length,
            "tokens": self.rows * length * self.steps,
        }
        return params


UNTIED = {"width": 768, "layers": 4, "heads": 12, "kv_heads": 4, "ffn_width": 2048, "tied": False}
CASES = (
    Case("default"),
    Case("small", {"width": 64, "layers": 2, "heads": 2, "ffn_width": 128, "context": 128}, 8, 512, steps=600),
    Case("adamw", optimizer="adamw"),
    Case("schedule_free ema", optimizer="schedule_free", average="ema"),
    Case("width 320", {"width": 320, "ffn_width": 864}, optimizer="adamw"),
    Case("12 layers", {"layers": 12}),
    Case("context 512", {"context": 512}, 8),
    Case("context 1024", {"context": 1024}, 4, average="ema"),
    Case("4 rows", rows=4),
    Case("48 rows", rows=48, optimizer="adamw"),
    Case("vocabulary 16384", vocab_size=16384, optimizer="adamw"),
    Case("28M", {"width": 512, "layers": 8, "heads": 8, "kv_heads": 8, "ffn_width": 1376}, 4, 8192, "muon", "ema"),
    Case("untied 80M", UNTIED, 4, 32768, "adamw"),
)  # fmt: skip


def contests(threads: int) -> Iterator[Contest]:
    """Each case once: a peak of memory differs by 1% from run to run."""
    for case in CASES:
        peer = Arm(f"measured, {case.name}", cache(partial(measure_peak, case)))
        ours = Arm(f"forecast, {case.name}", cache(partial(forecast_peak, case)))
        yield Contest(ours, (MEMORY,), (peer,), gate, 1, packages=("torch",))


def gate(forecast: float, peak: float) -> str:
    """What is wrong; empty where the forecast is within TOLERANCE of the peak."""
    apart = forecast / peak - 1
    return (
        ""
        if abs(apart) <= TOLERANCE
        else f"forecast {forecast / 2**20:.0f} MiB, measured {peak / 2**20:.0f}: {apart:+.0%}"
    )


def forecast_peak(case: Case) -> Sample:
    """The forecast, for a run that takes long enough for a checkpoint: the measured one takes one after every step."""
    params = case.params()
    machine = Machine("this machine", False, memory_bytes(torch.device("cpu")), 1.0, 1.0)  # of 1 FLOP/s, so long enough
    found = forecast_of(works_of(params, ["pretrain"])["pretrain"], machine).bytes
    return Sample({MEMORY.name: found}, found)


def measure_peak(case: Case) -> Sample:
    """Peak memory of the stage itself, in bytes."""
    with tempfile.TemporaryDirectory(prefix="plan-accuracy-") as folder:
        prepare(Path(folder), case.params())
        found = peak_memory(Path(folder))
    return Sample({MEMORY.name: found}, found)

"""What the digests of every step cost at the sizes of the default preset: steps that record them beside steps that do not.

Both are steps of one loop of the real stage, by turns (with, without, without, with), so that what else the machine does falls
on both alike. SFT is the stage with the shortest steps for its weights.
"""

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from torch import Tensor

from benchmarks.contest import Contest, Metric
from benchmarks.staged import ROOT, prepare, tokenizer_of
from benchmarks.subprocess_arm import subprocess_arm
from lm.checkpoint import save_model
from lm.model import Decoder
from lm.training import loop
from lm.training.digests import Digests
from tasks.core.config import load, read_params
from tasks.core.log import Log
from tasks.core.process import use_threads
from tasks.pretrain import stage as pretrain
from tasks.runner.json_lines import Lines
from tasks.sft import stage as sft

# Of the first steps, which allocate; then as many as give a median of one per thousand where the machine is quiet.
WARMING, STEPS = 4, 100
METRICS = (
    Metric("step", "ms"),
    Metric("added", "% of a step, by pairs"),
    Metric("spent", "% of a step, in the digests"),
    Metric("bytes_a_step", "B"),
)


def contests(threads: int) -> Iterator[Contest]:
    """The pretraining and the SFT stage."""
    for name in ("pretrain", "sft"):
        arm = subprocess_arm(f"digests in {name}", "benchmarks.step_digests:cost", stage=name, threads=threads)
        yield Contest(arm, METRICS, pairs=3, packages=("torch", "xxhash"))


class Recording(Log):
    """Keeps the digests as a stage does, and the time at the end of each step."""

    def __init__(self, folder: Path) -> None:
        self.ends: list[float] = []
        self.lines = Lines(folder / "digests.jsonl", resumes=False)

    def digests(self, step: int, values: dict[str, Any]) -> None:
        if values:
            self.lines.add(step, values)

    def progress(self, done: int, total: int, unit: str = "step", **shown: float) -> None:
        self.ends.append(time.perf_counter())


def records(step: int) -> bool:
    """Whether this step records digests."""
    return step % 4 in (0, 3)


def cost(stage: str, threads: int) -> tuple[dict[str, float], None]:
    """Metrics of one run of a stage at the default preset's sizes."""
    os.environ["TOKENMILL_THREADS"] = str(threads)
    use_threads()
    params = read_params(ROOT / "presets" / "laptop.yaml")
    tokens_per_step = params["curriculum"]["tokens_per_step"]
    params["curriculum"]["tokens"] = (WARMING + STEPS) * tokens_per_step
    params["pretrain"]["samples_every"] = 0
    params["sft"]["steps"] = WARMING + STEPS
    spent: list[float] = []

    class Measured(Digests):
        """Digests of the steps that record them, with what they take; of the others nothing is done."""

        def begin(self, step: int, content: Iterable[Tensor]) -> None:
            self.step, began = step, time.perf_counter()
            if records(step):
                super().begin(step, content)
            self.took = time.perf_counter() - began

        def logged(self) -> dict[str, Any]:
            if records(self.step):
                began = time.perf_counter()
                log.digests(self.step, super().logged())
                spent.append(self.took + time.perf_counter() - began)
            return {}

    with tempfile.TemporaryDirectory() as folder, patch.object(loop, "Digests", Measured):
        root = Path(folder)
        prepare(root, params)
        log = Recording(root)
        (root / "data" / stage).mkdir(exist_ok=True)
        if stage == "pretrain":
            pretrain.run(load("pretrain", pretrain.PretrainConfig, params), root / "data", log)
        else:
            (root / "data" / "pretrain").mkdir()
            tokenizer = tokenizer_of(params["tokenize"]["method"]["vocab_size"])
            shape = {**params["pretrain"]["model"], "vocab_size": tokenizer.vocab_size}
            save_model(root / "data" / "pretrain", Decoder(pretrain.ModelConfig(**shape)), tokenizer)
            sft.run(load("sft", sft.SftConfig, params), root / "data", log)
        size = log.lines.path.stat().st_size
    times = [after - before for before, after in zip(log.ends[WARMING - 1 :], log.ends[WARMING:], strict=False)]
    recorded = [times[n] for n in range(len(times)) if records(n + WARMING)]
    plain = [times[n] for n in range(len(times)) if not records(n + WARMING)]
    without = median(plain)
    return {
        "step": 1e3 * without,
        "added": 100 * median((a - b) / without for a, b in zip(recorded, plain, strict=True)),
        "spent": 100 * median(spent[WARMING // 2 :]) / without,
        "bytes_a_step": size / len(spent),
    }, None

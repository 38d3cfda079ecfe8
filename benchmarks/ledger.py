"""The token ledger: its bytes over those of the tokens, the seconds of its questions, and what keeping losses costs a step."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from benchmarks.contest import Contest, Metric
from benchmarks.pretrain_step import PAIRS, RATE, SPEED, XS, gate, ours, prepare
from benchmarks.subprocess_arm import subprocess_arm
from benchmarks.turns import Turns, persistent_arm
from lm.model import Decoder
from lm.training.flops import flops_per_token
from tasks.core.log import Log
from tasks.core.tables import write_table
from tasks.curriculum.methods import ShuffledPacking
from tasks.curriculum.stage import CurriculumConfig
from tasks.curriculum.stage import run as plan
from tasks.ledger.run import Run
from tasks.ledger.steps import documents_of
from tasks.ledger.suspects import suspects
from tasks.pretrain import stage
from tasks.tokenize.stage import SCHEMA

DOCUMENTS, MEAN_TOKENS, TOKEN_BYTES, SEQUENCES = 200_000, 600, 2, 64
SHARES = (Metric("plan_share", "% of token bytes"), Metric("losses_share", "% of token bytes"))
QUESTIONS = (Metric("step", "s"), Metric("document", "s"), Metric("suspects", "s"))


def contests(threads: int) -> Iterator[Contest]:
    """120 M tokens planned once, in sequences of 1024 and of 2048; then steps that keep losses beside steps that do not."""
    for length in (1024, 2048):
        arm = subprocess_arm(f"ledger at {length}", "benchmarks.ledger:sizes_and_questions", length=length)
        yield Contest(arm, SHARES + QUESTIONS, packages=("duckdb", "pyarrow"))
    size = replace(XS, steps=20)
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), size)
        common: dict[str, Any] = {
            "folder": folder,
            "tokens": size.sequences * size.model.context,
            "steps": size.steps,
            "rate": RATE,
            "threads": threads,
            "operations": flops_per_token(Decoder(size.model), size.model.context),
            "compiled": False,
        }
        with (
            persistent_arm("pretrain XS, losses kept", "benchmarks.pretrain_step:ours", **common) as kept,
            persistent_arm("pretrain XS, no losses kept", "benchmarks.ledger:without", **common) as plain,
        ):
            yield Contest(kept, (SPEED,), (plain,), gate, PAIRS, packages=("torch",))


def sizes_and_questions(length: int) -> tuple[dict[str, float], None]:
    """Metrics of a plan that the curriculum stage writes of documents of 600 tokens in the mean, log-normal."""
    rng = np.random.default_rng(0)
    lengths = np.maximum(2, rng.lognormal(np.log(MEAN_TOKENS) - 0.5, 1.0, DOCUMENTS)).astype(np.int64)
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        for folder in ("tokenize", "curriculum", "pretrain"):
            (data / folder).mkdir()
        names = pa.array([f"web/{number:016x}" for number in rng.permutation(DOCUMENTS)])
        columns = [
            names,
            ["web"] * DOCUMENTS,
            ["train"] * DOCUMENTS,
            np.cumsum(lengths) - lengths,
            lengths,
            lengths * 4,
        ]
        kinds = {field.name: field.type for field in SCHEMA}
        arrays = {n: pa.array(c, kinds[n]) for n, c in zip(kinds, columns, strict=False)}
        write_table(data / "tokenize" / "documents.parquet", pa.table(arrays))
        tokens = int(lengths.sum()) - length
        method = ShuffledPacking(sequence_length=length)
        figures = plan(
            CurriculumConfig(method=method, tokens=tokens, tokens_per_step=SEQUENCES * length, seed=0), data, Log()
        )
        size = TOKEN_BYTES * (figures["tokens"] + figures["sequences"])
        losses = rng.normal(3, 0.1, int(figures["sequences"])).astype(np.float16)
        losses[rng.integers(0, len(losses), 50)] += 3
        np.save(data / "pretrain" / "sequence_losses.npy", losses)
        shares = {
            "plan_share": 100 * (data / "curriculum" / "plan.parquet").stat().st_size / size,
            "losses_share": 100 * losses.nbytes / size,
        }
        run = Run(data)
        steps = "SELECT step, sum(p.length) FROM plan p JOIN documents d ON d.number = p.document WHERE id = ? GROUP BY step"
        questions = {
            "step": seconds(lambda: documents_of(run, int(figures["steps"]) // 2)),
            "document": seconds(lambda: run.rows(steps, names[0].as_py())),
            "suspects": seconds(lambda: suspects(run)),
        }
    return shares | questions, None


def seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Nothing:
    """Stand-in for SequenceLosses that keeps none."""

    def __init__(self, path: Path, sequences_S: np.ndarray) -> None: ...
    def rows(self, rows: slice, losses_R: Tensor) -> None: ...
    def of_step(self, step: int) -> Tensor:
        return torch.empty(0)

    def keep(self, step: int, losses_B: Tensor) -> None: ...


def without(turns: Turns, **arguments: Any) -> None:
    """The arm that keeps no losses; the mean of each sequence is still taken, which is 16 sums a step."""
    with patch.object(stage, "SequenceLosses", Nothing):
        ours(turns, **arguments)

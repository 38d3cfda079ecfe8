"""The pretraining step: the pretrain stage beside other trainers of the same Llama, from the same weights and batches.

AdamW at a constant rate, fp32, no weight decay, gradients clipped at norm 1; nobody writes checkpoints or evaluates. All
arms load one Hugging Face folder, and live on between their turns (benchmarks/turns.py): a sample is a few steps.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.contest import Contest, Metric
from benchmarks.steps import Steps
from benchmarks.subprocess_arm import PEERS
from benchmarks.turns import Turns, persistent_arm
from lm.averages import Last
from lm.hugging_face.export import save_hf
from lm.model import Decoder, ModelConfig
from lm.optimizers import AdamW
from lm.schedules import Wsd
from lm.tokenizer import Tokenizer
from lm.training.flops import flops_per_token
from tasks.core.config import Checkpoint
from tasks.core.log import Log
from tasks.core.process import use_threads
from tasks.pretrain.objectives import NextToken
from tasks.pretrain.stage import PretrainConfig, run
from tasks.pretrain.starts import HuggingFace
from tasks.runner.progress import Progress
from tasks.tokenize.methods.bytes import Bytes

RATE, PAIRS = 1e-3, 5
# A loss of 8 has an fp32 rounding of 5e-7; ten updates let the order of sums grow to less than this.
TOLERANCE = 1e-4
SPEED = Metric("tokens_per_second", "tokens/s", higher_is_better=True)
MEMORY = Metric("peak_memory_bytes", "bytes")
COMPILE = Metric("compile_time", "s")
ROOF_SHARE = Metric("roof_share", "%", higher_is_better=True)
PACKAGES = ("torch",)
# Side of the square matrices whose product is the roof.
ROOF_SIDE = 2048


@dataclass(frozen=True)
class Size:
    """A model and its batch; `steps` make a sample."""

    name: str
    model: ModelConfig
    sequences: int
    steps: int


def shape(vocab_size: int, width: int, layers: int, ffn_width: int, context: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size, width=width, layers=layers, heads=4, kv_heads=4, ffn_width=ffn_width, context=context,
        qk_norm=False,
    )  # fmt: skip


XS, M = Size("XS", shape(4096, 128, 4, 344, 256), 16, 5), Size("M", shape(8192, 256, 6, 704, 512), 16, 1)


def contests(threads: int) -> Iterator[Contest]:
    """Both sizes: ours, plain and compiled, beside each peer, the share of the roof that it reaches, and what compiling
    costs."""
    for size in (XS, M):
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), size)
            tokens = size.sequences * size.model.context
            common: dict[str, Any] = {"folder": folder, "tokens": tokens, "steps": size.steps, "rate": RATE}
            peers: dict[str, tuple[str, dict[str, Any]]] = {
                "eager": ("benchmarks.plain:train", {"compiled": False}),
                "compiled": ("benchmarks.plain:train", {"compiled": True}),
                "Trainer": ("benchmarks.pretrain_peers:transformers_trainer", {"python": PEERS}),
                "litgpt": ("benchmarks.pretrain_peers:litgpt_pretrain", {"python": PEERS}),
            }
            own: dict[str, Any] = {
                "threads": threads,
                "operations": flops_per_token(Decoder(size.model), size.model.context),
            }
            for compiled, name in ((False, "pretrain"), (True, "pretrain compiled")):
                own["compiled"] = compiled
                with persistent_arm(
                    f"{name} {size.name}", "benchmarks.pretrain_step:ours", **own, **common
                ) as ours_arm:
                    for peer_name, (function, more) in peers.items():
                        with persistent_arm(f"{peer_name} {size.name}", function, **more, **common) as peer:
                            yield Contest(ours_arm, (SPEED, MEMORY), (peer,), gate, PAIRS, packages=PACKAGES)
                            if not compiled and peer_name == "compiled":  # later its cache is full
                                yield Contest(peer, (COMPILE,), pairs=1, packages=PACKAGES)
                    yield Contest(ours_arm, (ROOF_SHARE,), pairs=PAIRS, packages=PACKAGES)
                    if compiled:
                        yield Contest(ours_arm, (COMPILE,), pairs=1, packages=PACKAGES)


def gate(ours_losses: list[float], peer_losses: list[float]) -> str:
    """The gate: the loss of each of the first ten steps, relative."""
    for step, (a, b) in enumerate(zip(ours_losses, peer_losses, strict=True)):
        if not abs(a - b) <= TOLERANCE * abs(b):
            return f"loss of step {step}: ours {a:.6f}, peer {b:.6f}"
    return ""


def prepare(folder: Path, size: Size) -> None:
    """folder/model: the weights that all begin with. folder/tokenize and folder/curriculum: the tokens, and the plan that
    reads them from the start, with as many steps as the contests of a size ask for."""
    for name in ("tokenize", "curriculum", "pretrain"):
        (folder / name).mkdir()
    save_hf(Decoder(size.model), Bytes()(iter(()), Path()), folder / "model", torch.float32)
    Tokenizer.adopt(folder / "model").save(folder / "tokenize")
    samples_of_ours = (4 + 1) * (PAIRS + 1) + 2  # four peers, the roof, and what compiling costs
    steps = Steps.FIRST + samples_of_ours * size.steps
    length = size.model.context + 1
    ids = learnable(size.model.vocab_size, steps * size.sequences, length)
    np.save(folder / "tokenize" / "tokens.npy", ids.astype(np.uint16).ravel())
    facts = {"start": [0], "length": [ids.size], "bytes": [ids.size]}  # the whole corpus is one document
    pq.write_table(pa.table(facts), folder / "tokenize" / "documents.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "tokenize" / "held_out.parquet")
    rows = np.arange(len(ids))
    columns = {
        "step": rows // size.sequences,
        "sequence": rows % size.sequences,
        "document": np.zeros(len(ids), dtype=np.int64),
        "offset": rows * length,
        "length": np.full(len(ids), length),
    }
    pq.write_table(pa.table(columns), folder / "curriculum" / "plan.parquet")


def learnable(vocab_size: int, sequences: int, length: int) -> np.ndarray:
    """ids_SN: after each token comes its own successor, in one case of eight any token."""
    generator = np.random.default_rng(0)
    successor = generator.permutation(vocab_size)
    ids_SN = generator.integers(vocab_size, size=(sequences, length))
    kept_SN = generator.random((sequences, length)) < 7 / 8
    for n in range(1, length):
        ids_SN[:, n] = np.where(kept_SN[:, n], successor[ids_SN[:, n - 1]], ids_SN[:, n])
    return ids_SN


class Paced(Log):
    """The log of a stage, with its progress, whose rate counts the waits too; a step is done when that is shown."""

    def __init__(self, done: Steps) -> None:
        self._done, self._progress = done, Progress("pretrain")

    def progress(self, done: int, total: int, unit: str = "step", **shown: float) -> None:
        self._progress.show(done, total, unit, shown)
        self._done(shown["loss"])


def ours(
    turns: Turns, folder: str, tokens: int, steps: int, rate: float, threads: int, operations: float, compiled: bool
) -> None:
    """The arm: the pretrain stage itself, with the threads and the determinism that a stage has."""
    os.environ["TOKENMILL_THREADS"] = str(threads)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "inductor-of-ours")
    use_threads()
    config = PretrainConfig(
        start=HuggingFace(),
        checkpoint=Checkpoint(folder=str(Path(folder) / "model")),
        model=ModelConfig(),
        objective=NextToken(),
        optimizer=AdamW(lr=rate, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.0),
        schedule=Wsd(warmup_fraction=0.0, decay_fraction=0.0),
        average=Last(),
        clip=1.0,
        compile="on" if compiled else "off",
        seed=0,
    )
    run(config, Path(folder), Paced(Steps(turns, tokens, steps, lambda speed: roof_share(speed * operations))))


def roof_share(operations_per_second: float) -> dict[str, float]:
    """Percent of the speed of a square product in fp32, measured now: the median of five."""
    a, b, out = (torch.randn(ROOF_SIDE, ROOF_SIDE) for _ in range(3))
    times = []
    for _ in range(6):
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        times.append(time.perf_counter() - began)
    return {ROOF_SHARE.name: 100 * operations_per_second * median(times[1:]) / (2 * ROOF_SIDE**3)}

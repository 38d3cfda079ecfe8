"""Fine-tuning with LoRA: the sft stage, packed, beside Trainer with the library peft, in tokens of answers a second.

As benchmarks/sft_step.py has it, of the same model and data: rows of at most 512 tokens at size S (4.2 million weights), AdamW
at a constant rate, fp32, batches of 16 conversations. Rank 8 beside every matrix of the blocks. Both begin with the same thin
matrices and learn from the same conversations in every step, shortest first, so that a padded batch has next to no padding,
and both say the loss of each step.
"""

import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks import sft_step
from benchmarks.contest import Contest, Metric
from benchmarks.paced import Paced
from benchmarks.sft_step import BATCH, RATE, TIMED, WARM, learned_in
from benchmarks.subprocess_arm import PEERS, subprocess_arm
from lm.averages import Last
from lm.checkpoint import save_model
from lm.hugging_face.adapters import save_adapter
from lm.linears import LoRA
from lm.model_folder import read_model
from lm.optimizers import AdamW
from lm.problems import Arithmetic
from lm.schedules import Wsd
from tasks.core.config import Conversations
from tasks.core.process import use_threads
from tasks.sft.orders import Ascending
from tasks.sft.sources import Files
from tasks.sft.stage import SftConfig, run

METHOD, ORDER, SEED = LoRA(rank=8, alpha=16.0), Ascending(by="length"), 0
PAIRS = 5
# sums of some thousand terms in fp32 in another order, and what that grows to in some updates
TOLERANCE = 1e-4
SPEED = Metric("completion_tokens_per_second", "tokens/s", higher_is_better=True)
MEMORY = Metric("peak_memory_bytes", "bytes")


def contests(threads: int) -> Iterator[Contest]:
    """Ours beside peft and Trainer."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sft_step.prepare(folder)
        arrange(folder, BATCH * (WARM + TIMED))
        ours_arm = subprocess_arm("sft, packed, lora", "benchmarks.lora_step:ours", folder=name, threads=threads)
        peer = subprocess_arm(
            "peft, Trainer", "benchmarks.lora_peers:peft_trainer", python=PEERS, folder=name, threads=threads
        )
        yield Contest(ours_arm, (SPEED, MEMORY), (peer,), gate, PAIRS, packages=("torch",))


def gate(ours_losses: list[float], peer_losses: list[float]) -> str:
    """The gate: every step's loss, relative. Raises ValueError for other numbers of steps."""
    for step, (mine, theirs) in enumerate(zip(ours_losses, peer_losses, strict=True)):
        if not abs(mine - theirs) <= TOLERANCE * abs(theirs):
            return f"loss of step {step}: ours {mine:.6f}, peer {theirs:.6f}"
    return ""


def arrange(folder: Path, places: int) -> None:
    """Leave folder/ordered/rows.jsonl, the rows of folder/rows in the order in which the stage takes them, and folder/adapter,
    the thin matrices that both begin with, beside folder/model, which is dense."""
    model, tokenizer = read_model(folder / "model")
    rows = (folder / "rows" / "rows.jsonl").read_text().splitlines()
    lengths_N = np.array([len(made) for made in learned_in(folder / "rows", tokenizer)])
    order = ORDER(lengths_N, np.full(len(rows), math.nan), places, SEED)
    (folder / "ordered").mkdir()
    (folder / "ordered" / "rows.jsonl").write_text("".join(rows[place] + "\n" for place in order))
    model.reparametrize(METHOD)
    (folder / "adapter").mkdir()
    save_adapter(folder / "adapter", METHOD.adapter_state(model.held), model.config)


class Losses(Paced):
    """The log that keeps each step's loss."""

    def __init__(self, warm: int) -> None:
        super().__init__(warm)
        self.losses: list[float] = []

    def __call__(self, step: int, **values: float) -> None:
        self.losses.append(values["loss"])


def ours(
    folder: str, threads: int, batch: int = BATCH, warm: int = WARM, timed: int = TIMED
) -> tuple[dict[str, float], list[float]]:
    """The arm: the stage itself, with what follows its last step, the merge and the model's files."""
    os.environ["TOKENMILL_THREADS"] = str(threads)
    use_threads()
    torch.use_deterministic_algorithms(True)
    place = Path(folder)
    model, tokenizer = read_model(place / "model")
    for name in ("start", "sft"):
        (place / name).mkdir(exist_ok=True)
    save_model(place / "start", model, tokenizer)
    config = SftConfig(
        model="start", steps=warm + timed, batch=batch, sources=[Files()], packing=True, order=ORDER, problems=Arithmetic(),
        seed=SEED, linear=METHOD, optimizer=AdamW(lr=RATE, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0),
        schedule=Wsd(warmup_fraction=0.0, decay_fraction=0.0), average=Last(), compile="off",
        conversations=Conversations(folder=str(place / "rows")),
    )  # fmt: skip
    log = Losses(warm)
    run(config, place, log)
    seconds = time.perf_counter() - log.began
    answered = sum(len(made.completion) for made in list(learned_in(place / "ordered", tokenizer))[batch * warm :])
    return {SPEED.name: answered / seconds}, log.losses

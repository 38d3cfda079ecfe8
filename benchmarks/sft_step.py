"""Fine-tuning on conversations: the sft stage, packed, beside Trainer and TRL, in tokens of answers a second.

Rows of instruction data of at most 512 tokens at size S (4.2 million weights), AdamW at a constant rate, fp32, batches of 16
conversations, none trained on twice. Every arm is a process of its own, which has two steps to get going in.
"""

import gzip
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.contest import Contest, Metric
from benchmarks.paced import Paced
from benchmarks.subprocess_arm import PEERS, ROOT, subprocess_arm
from lm.averages import Last
from lm.checkpoint import save_model
from lm.conversations.encode import encode_dialogue
from lm.conversations.layouts import dialogue_of
from lm.hugging_face.export import save_hf
from lm.model import Decoder, ModelConfig
from lm.model_folder import read_model
from lm.optimizers import AdamW
from lm.problems import Arithmetic
from lm.schedules import Wsd
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import collate, places, token_logps
from tasks.core.config import Conversations
from tasks.core.process import use_threads
from tasks.sft.sources import Files
from tasks.sft.stage import SftConfig, run
from tasks.tokenize.methods.bpe import Bpe

DATA = ROOT / "../shared/data/instruct"
CONTEXT, BATCH, RATE = 512, 16, 1e-3
WARM, TIMED, PAIRS = 2, 16, 5
# conversations whose loss under the first weights is the answer that the gate compares
JUDGED = 64
# sums of some thousand terms in fp32, in another order
TOLERANCE = 1e-4
SPEED = Metric("completion_tokens_per_second", "tokens/s", higher_is_better=True)
MEMORY = Metric("peak_memory_bytes", "bytes")


def contests(threads: int) -> Iterator[Contest]:
    """Ours beside the length-grouped Trainer, TRL padded, and last TRL packed, which it does not support on a CPU."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        ours_arm = subprocess_arm("sft, packed", "benchmarks.sft_step:ours", folder=folder, threads=threads)
        for name, function, more in (
            ("Trainer, by length", "grouped_trainer", {}),
            ("TRL", "trl_sft", {"packing": False}),
            (
                "TRL, packed",
                "trl_sft",
                {"packing": True},
            ),  # outside of TRL's documents on a CPU: see benchmarks/sft_peers.py
        ):
            peer = subprocess_arm(
                name, f"benchmarks.sft_peers:{function}", python=PEERS, folder=folder, threads=threads, **more
            )
            yield Contest(ours_arm, (SPEED, MEMORY), (peer,), gate, PAIRS, packages=("torch",))


def gate(ours_loss: float, peer_loss: float) -> str:
    """The gate: the mean loss of the same answers under the weights that all begin with, relative."""
    same = abs(ours_loss - peer_loss) <= TOLERANCE * abs(peer_loss)
    return "" if same else f"loss of {JUDGED} conversations: ours {ours_loss:.6f}, peer {peer_loss:.6f}"


def prepare(folder: Path) -> None:
    """folder/model, and rows.jsonl: conversations of at most CONTEXT tokens. Raises ValueError without instruction data."""
    files = sorted(DATA.glob("*.jsonl.gz"))
    if not files:
        raise ValueError(
            f"{DATA}: no *.jsonl.gz there; give this benchmark a folder of instruction data, as docs/post-training.md has it"
        )
    rows = [json.loads(line) for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]
    tokenizer = Bpe(vocab_size=8192)((row["instruction"] + row["output"] for row in rows), Path())
    wanted = JUDGED + BATCH * (WARM + TIMED)
    kept: list[dict[str, Any]] = []
    for row in rows[:: len(rows) // (3 * wanted)]:
        dialogue = dialogue_of(row, "row")
        (made,) = encode_dialogue(dialogue, tokenizer)
        if len(made) <= CONTEXT and len(kept) < wanted:
            kept.append({"prompt": dialogue.messages[:1], "completion": dialogue.messages[1:]})
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        width=192,
        layers=6,
        heads=6,
        kv_heads=6,
        ffn_width=512,
        context=CONTEXT,
        qk_norm=False,
    )
    save_hf(Decoder(shape), tokenizer, folder / "model", torch.float32)
    for name, some in (("judged", kept[:JUDGED]), ("rows", kept[JUDGED:])):
        (folder / name).mkdir()
        (folder / name / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))


def ours(folder: str, threads: int) -> tuple[dict[str, float], float]:
    """The arm: the stage itself."""
    os.environ["TOKENMILL_THREADS"] = str(threads)
    use_threads()
    torch.use_deterministic_algorithms(True)
    place = Path(folder)
    model, tokenizer = read_model(place / "model")
    for name in ("start", "sft"):
        (place / name).mkdir(exist_ok=True)
    save_model(place / "start", model, tokenizer)
    config = SftConfig(
        model="start", steps=WARM + TIMED, batch=BATCH, sources=[Files()], packing=True, problems=Arithmetic(), seed=0,
        optimizer=AdamW(lr=RATE, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0),
        schedule=Wsd(warmup_fraction=0.0, decay_fraction=0.0), average=Last(), compile="off",
        conversations=Conversations(folder=str(place / "rows")),
    )  # fmt: skip
    log = Paced(WARM)
    run(config, place, log)
    seconds = time.perf_counter() - log.began
    return {SPEED.name: count_answer_tokens(place, tokenizer) / seconds}, mean_loss(model, tokenizer, place)


def learned_in(folder: Path, tokenizer: Tokenizer) -> Iterator[Any]:
    for line in (folder / "rows.jsonl").read_text().splitlines():
        yield from encode_dialogue(dialogue_of(json.loads(line), "row"), tokenizer)


def count_answer_tokens(place: Path, tokenizer: Tokenizer) -> float:
    """Tokens of answers in the timed steps: those of all rows, less the share of the steps to get going in."""
    total = sum(len(made.completion) for made in learned_in(place / "rows", tokenizer))
    return total * TIMED / (WARM + TIMED)


@torch.no_grad()
def mean_loss(model: Decoder, tokenizer: Tokenizer, place: Path) -> float:
    """Mean loss of the judged answers' tokens, one conversation at a time."""
    total = count = 0.0
    for made in learned_in(place / "judged", tokenizer):
        ids_BN, mask_BT = collate([made], tokenizer.pad_id)
        total -= float(token_logps(model, ids_BN, places(mask_BT)).sum())
        count += float(mask_BT.sum())
    return total / count

"""A step of GRPO: the rl stage beside TRL's GRPOTrainer, of the same weights, prompts and reward.

5.8 million weights, 16 prompts of 64 to 256 tokens, 8 answers to each of at most 128, which end by chance after some
60. A step samples the answers, scores them, and makes one update of all of them; AdamW, fp32, no reference. Every arm is a
process of its own, with one step to get going in.
"""

import gzip
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.contest import Contest, Metric
from benchmarks.paced import Paced
from benchmarks.subprocess_arm import PEERS, ROOT, subprocess_arm
from lm.averages import Last
from lm.checkpoint import save_model
from lm.hugging_face.export import save_hf
from lm.model import Decoder, ModelConfig
from lm.model_folder import read_model
from lm.optimizers import AdamW
from lm.problems.example import Example, Score
from lm.schedules import Wsd
from lm.training.data.conversations import places, token_logps
from tasks.core.process import use_threads
from tasks.rl.advantages import Grpo
from tasks.rl.config import RlConfig
from tasks.rl.learning import Learning
from tasks.rl.losses import PolicyGradient
from tasks.rl.stage import run
from tasks.tokenize.methods.bpe import Bpe

DATA = ROOT / "../shared/data/instruct"
PROMPTS, SAMPLES, LONGEST, RATE = 16, 8, 128, 1e-5
WARM, TIMED, PAIRS = 1, 2, 5
# logit of the end of an answer along the mean hidden state: answers then have some 60 tokens on the mean, 59 in a sample of 64
ENDS = 15.0
JUDGED, GRADIENT_ROWS = 4, 64
STEP, ROLLOUT = Metric("step", "s"), Metric("rollout_tokens_per_second", "tokens/s", higher_is_better=True)
MEMORY = Metric("peak_memory_bytes", "bytes")


def contests(threads: int) -> Iterator[Contest]:
    """Ours beside TRL with the sampler of transformers."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        ours_arm = subprocess_arm("rl", "benchmarks.grpo_step:ours", folder=folder, threads=threads)
        peer = subprocess_arm("TRL", "benchmarks.grpo_peers:trl_grpo", python=PEERS, folder=folder, threads=threads)
        yield Contest(ours_arm, (STEP, ROLLOUT, MEMORY), (peer,), gate, PAIRS, packages=("torch",))


def gate(ours_found: dict[str, list[float]], peer: dict[str, list[float]]) -> str:
    """The gate: log-probabilities of the same tokens to 1e-4, and the direction of the policy gradient to a cosine of
    0.9999."""
    mine, theirs = (np.array(found["logps"]) for found in (ours_found, peer))
    apart_by = float(np.abs(mine - theirs).max())
    a, b = (np.array(found["gradient"]) for found in (ours_found, peer))
    cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return "" if apart_by < 1e-4 and cosine > 0.9999 else f"log-probabilities {apart_by:.2g} apart, cosine {cosine:.6f}"


def prepare(folder: Path) -> None:
    """folder/model, prompts.json, and judged.json: some answers with advantages. Raises ValueError without instruction data."""
    files = sorted(DATA.glob("*.jsonl.gz"))
    if not files:
        raise ValueError(f"{DATA}: no *.jsonl.gz there; give this benchmark a folder of instruction data")
    rows = [json.loads(line) for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]
    tokenizer = Bpe(vocab_size=8192)((row["instruction"] + row["output"] for row in rows), Path())
    texts = (
        f"{row['instruction']}\n\n{row['input']} {row['output']}"[: 300 + 13 * n % 900] for n, row in enumerate(rows)
    )
    wanted = PROMPTS * (WARM + TIMED)
    prompts = [text for text in texts if 64 <= len(tokenizer.chat(text)) <= 256][:wanted]
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, width=192, layers=6, heads=6, kv_heads=6, ffn_width=512, context=512, qk_norm=False,
        tied=False,
    )  # fmt: skip
    model = Decoder(shape)
    with torch.no_grad():
        ids = torch.tensor([tokenizer.encode(" ".join(prompts))[:512]])
        mean_D = model.hidden(ids)[0].mean(0)
        model.head.weight[tokenizer.end_id] = ENDS * mean_D / mean_D.square().sum()
    save_hf(model, tokenizer, folder / "model", torch.float32)
    (folder / "prompts.json").write_text(json.dumps(prompts))
    draw = torch.Generator().manual_seed(0)
    judged = {
        "ids": torch.randint(5, 8192, (JUDGED, 96), generator=draw).tolist(),
        "advantages": torch.randn(JUDGED, generator=draw).tolist(),
    }
    (folder / "judged.json").write_text(json.dumps(judged))


class Prompts:
    """Problems of the given prompts, whose reward is what the length of an answer leaves when divided by seven."""

    def __init__(self, prompts: list[str]) -> None:
        self._examples = [Example(str(n), prompt, "", "") for n, prompt in enumerate(prompts)]

    def examples(self, split: str) -> list[Example]:
        return self._examples

    def score(self, example: Example, text: str) -> Score:
        return Score(len(text) % 7 / 6)


class Timed:
    """The sampling of a run, in seconds and tokens."""

    def __init__(self) -> None:
        self.seconds, self.tokens, self._rollout = 0.0, 0, Learning._rollout

    def rollout(self, learning: Learning, number: int) -> Any:
        began = time.perf_counter()
        found = self._rollout(learning, number)
        if number >= WARM:
            self.seconds += time.perf_counter() - began
            self.tokens += int(found.mask_BT.sum())
        return found


def ours(folder: str, threads: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The arm: the stage itself."""
    os.environ["TOKENMILL_THREADS"] = str(threads)
    use_threads()
    torch.use_deterministic_algorithms(True)
    place = Path(folder)
    model, tokenizer = read_model(place / "model")
    found = logps_and_gradient(model, place)
    for name in ("start", "rl"):
        (place / name).mkdir(exist_ok=True)
    save_model(place / "start", model, tokenizer)
    config = RlConfig.model_validate(
        {
            "model": "start", "steps": WARM + TIMED, "prompts": PROMPTS, "samples": SAMPLES, "minibatches": 1,
            "max_new_tokens": LONGEST, "advantage": Grpo(), "loss": PolicyGradient(), "average": Last(), "compile": "off",
            "optimizer": AdamW(lr=RATE, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0),
            "schedule": Wsd(warmup_fraction=0.0, decay_fraction=0.0), "problems": {"name": "arithmetic"}, "seed": 0,
        }
    )  # fmt: skip
    config = config.model_copy(update={"problems": Prompts(json.loads((place / "prompts.json").read_text()))})
    log, timed = Paced(WARM), Timed()
    Learning._rollout = lambda learning, number: timed.rollout(learning, number)  # type: ignore[method-assign,assignment]
    run(config, place, log)
    step = (time.perf_counter() - log.began) / TIMED
    return {STEP.name: step, ROLLOUT.name: timed.tokens / timed.seconds}, found


def logps_and_gradient(model: Decoder, place: Path) -> dict[str, list[float]]:
    """Log-probabilities of the judged answers' tokens, and the gradient that their policy gradient has for the first
    embeddings."""
    given = json.loads((place / "judged.json").read_text())
    ids_BN, advantages_B = torch.tensor(given["ids"]), torch.tensor(given["advantages"])
    logps_BT = token_logps(model, ids_BN, places(torch.ones(ids_BN.shape[0], ids_BN.shape[1] - 1)))
    (-(advantages_B[:, None] * logps_BT).mean()).backward()
    weight = model.embedding.weight
    assert weight.grad is not None
    gradient = weight.grad[ids_BN[0, :GRADIENT_ROWS]].flatten().tolist()
    weight.grad = None
    model.zero_grad(set_to_none=True)
    return {"logps": logps_BT.detach().flatten().tolist(), "gradient": gradient}

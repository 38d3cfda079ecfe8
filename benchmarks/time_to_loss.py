"""Time to a loss (B9): seconds until ours is as good as a tuned plain loop is at its end, at a million weights on prose.

Both have the same tokens, decoder, initial weights and held-out documents. The peer is benchmarks/plain_pretraining.py,
eager; and the same compiled. Ours is the curriculum stage and the pretrain stage. Both are tuned over rate, batch, length of
sequences, decay of the rate and memory of the optimizer, on a seed of their own, with as many runs; among those of ours are
the ones that find the smallest budget that reaches the peer's loss, its schedule ending there. On fresh seeds a miss is made
good by a longer run, whose cost is added to that of the miss. Needs the folder of presets/prose.yaml.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.apart import apart
from benchmarks.contest import Arm, Contest, Metric, Sample
from benchmarks.prose import bits_per_byte, prepare
from benchmarks.search import Account, Run, Settings, by_turns, fewest
from lm.averages import Last
from lm.checkpoint import load_model
from lm.model import ModelConfig
from lm.optimizers import Muon
from lm.schedules import Wsd
from tasks.core.config import Checkpoint
from tasks.core.log import Log
from tasks.core.process import use_threads
from tasks.curriculum import stage as curriculum
from tasks.curriculum.methods import ShuffledPacking
from tasks.pretrain import stage as pretrain
from tasks.pretrain.objectives import NextToken
from tasks.pretrain.starts import Random

# 1.05 million weights, a quarter of them the embedding's.
SHAPE = ModelConfig(
    vocab_size=2048, width=128, layers=4, heads=4, kv_heads=4, ffn_width=344, context=256, qk_norm=False
)
SEEDS, TUNING_SEED = (0, 1, 2), 100
# Predictions of a run of the peer: about a minute of two cores.
TOKENS = 600_000
# Where both begin, and their choices, were narrowed on the tuning seed by runs that are in no account: docs/benchmarks.md.
PEER: Settings = {"batch": 256, "rate": 2.8e-3, "length": 256, "final": 0.1, "beta2": 0.95}
PEER_CHOICES: dict[str, tuple[Any, ...]] = {
    "rate": (2e-3, 2.8e-3, 4e-3, 5.6e-3),
    "batch": (256, 512, 1024),
    "length": (128, 256),
    "final": (0.0, 0.1),
    "beta2": (0.95, 0.99),
}
OURS: Settings = {"batch": 2048, "rate": 5e-3, "length": 128, "decay": 0.8, "momentum": 0.9}
CHOICES: dict[str, tuple[Any, ...]] = {
    "rate": (3.5e-3, 5e-3, 7e-3),
    "batch": (1024, 2048),
    "length": (128, 256),
    "decay": (0.4, 0.8),
    "momentum": (0.9, 0.95),
}
# Of the peer's predictions; ours is tuned at the middle one.
SHARES = (0.3, 0.36, 0.43, 0.5, 0.58, 0.68, 0.8)
# Bits per byte by which ours is to be ahead on the tuning seed, since seeds differ.
MARGIN = 0.01
# Of the budget: the runs of a seed until it is as good as the peer's.
ATTEMPTS = (1.0, 1.25, 1.5)
METRICS = (
    Metric("time", "s"),
    Metric("tokens", "tokens"),
    Metric("bits_per_byte", "bits/byte"),
    Metric("parameters", "weights"),
)
TUNING = (Metric("time_with_tuning", "s"), Metric("tokens_with_tuning", "tokens"), Metric("tuning_runs", "runs"))
PACKAGES = ("torch",)


def contests(threads: int) -> Iterator[Contest]:
    """One for each peer, whose pairs are the seeds. Raises ValueError when there is no prose."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), vocab_size=SHAPE.vocab_size)
        common: dict[str, Any] = {"folder": folder, "shape": SHAPE.model_dump()}
        plain = partial(run_apart, "benchmarks.plain_pretraining:pretrain", **common)
        own = partial(run_apart, "benchmarks.time_to_loss:ours", threads=threads, **common)
        yield from compare(own, partial(plain, compiled=False), partial(plain, compiled=True), TOKENS)


def run_apart(function: str, settings: Settings, seed: int, **common: Any) -> Sample:
    """A run in a process of its own. The answer is the digest of the documents that judged it."""
    return apart(function, function, seed=seed, **common, **settings).measure()


def compare(ours: Run, eager: Run, compiled: Run, tokens: int) -> list[Contest]:
    """Tune ours and the eager peer, run the seeds in turn, and return the contests that hold what they gave.

    The compiled peer takes the settings of the eager one. tokens: predictions of a run of the peer.
    """
    own, plain, faster = Account("ours", ours), Account("plain eager", eager), Account("plain compiled", compiled)
    peer_settings, bits = by_turns(plain, {"tokens": tokens, **PEER}, PEER_CHOICES, TUNING_SEED)
    settings = tuned(own, tokens, bits - MARGIN)
    search, peer_search = own.cost(), plain.cost()
    samples: dict[Account, list[Sample]] = {own: [], plain: [], faster: []}
    for number, seed in enumerate(SEEDS):
        peers = (plain, faster) if number % 2 == 0 else (faster, plain)  # ours waits for both: it must know its goal
        said = {peer: with_search(peer(peer_settings, seed), peer_search) for peer in peers}
        goals = [said[plain], said[faster]]
        goal = min(sample.values["bits_per_byte"] for sample in goals)
        reached = with_search(until(own, settings, seed, goal), search)
        for side, sample in zip(samples, (reached, *goals), strict=True):
            samples[side].append(sample)

    def contest(peer: Account, metrics: tuple[Metric, ...]) -> Contest:
        arm = recorded(f"ours {described(settings)}", samples[own])
        peer_arm = recorded(f"{peer.name} {described(peer_settings)}", samples[peer])
        return Contest(arm, metrics, (peer_arm,), as_good, pairs=len(SEEDS), packages=PACKAGES)

    return [contest(plain, METRICS + TUNING), contest(faster, METRICS)]


def tuned(run: Run, tokens: int, goal: float) -> Settings:
    """The best choices at the middle budget, then the smallest budget at which they have at most `goal` bits per byte."""
    budgets = [round(tokens * share) for share in SHARES]
    middle = budgets[len(budgets) // 2]
    chosen, bits = by_turns(run, {"tokens": middle, **OURS}, CHOICES, TUNING_SEED)

    def reaches(budget: int) -> bool:
        if budget == middle:
            return bits <= goal
        return run({**chosen, "tokens": budget}, TUNING_SEED).values["bits_per_byte"] <= goal

    return {**chosen, "tokens": fewest(budgets, reaches)}


def until(run: Run, settings: Settings, seed: int, goal: float) -> Sample:
    """The run with at most `goal` bits per byte, of ATTEMPTS of rising budgets; the last where none has. Its time and tokens
    are those of all runs it took."""
    time_, tokens = 0.0, 0.0
    for share in ATTEMPTS:
        sample = run({**settings, "tokens": round(settings["tokens"] * share)}, seed)
        time_, tokens = time_ + sample.values["time"], tokens + sample.values["tokens"]
        if sample.values["bits_per_byte"] <= goal:
            break
    return Sample({**sample.values, "time": time_, "tokens": tokens}, sample.answer)


def with_search(sample: Sample, search: dict[str, float]) -> Sample:
    """The sample with what tuning cost: runs, and its time and tokens on top of the sample's."""
    sums = {f"{name}_with_tuning": sample.values[name] + search[name] for name in ("time", "tokens")}
    return Sample({**sample.values, **sums, "tuning_runs": search["runs"]}, sample.answer)


def recorded(name: str, samples: Sequence[Sample]) -> Arm:
    """The arm that hands out these samples; before them, for the gate, one whose answer is (what judged the model, bits per
    byte) of each."""
    answers = [(sample.answer, sample.values["bits_per_byte"]) for sample in samples]
    following = iter([Sample(samples[0].values, answers), *samples])
    return Arm(name, lambda: next(following))


def as_good(ours_answers: list[tuple[str, float]], peer_answers: list[tuple[str, float]]) -> str:
    """The gate: the same held-out documents, and on no seed more bits per byte than the peer."""
    for seed, (a, b) in zip(SEEDS, zip(ours_answers, peer_answers, strict=True), strict=True):
        if a[0] != b[0]:
            return f"seed {seed}: ours was judged by documents {a[0]}, peer by {b[0]}"
        if not a[1] <= b[1]:
            return f"seed {seed}: bits per byte of ours {a[1]:.4f}, peer {b[1]:.4f}"
    return ""


def described(settings: Settings) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())


def ours(
    folder: str,
    shape: dict[str, Any],
    seed: int,
    tokens: int,
    batch: int,
    rate: float,
    length: int,
    decay: float,
    momentum: float,
    threads: int,
) -> tuple[dict[str, float], str]:
    """The arm: a plan and a pretraining by their stages. (values, the digest of the held-out documents).

    time: seconds of both stages, with neither imports nor evaluation in them.
    """
    os.environ["TOKENMILL_THREADS"] = str(threads)
    use_threads()
    data = Path(folder)
    for name in ("curriculum", "pretrain"):
        (data / name).mkdir(exist_ok=True)
    plan = curriculum.CurriculumConfig(
        method=ShuffledPacking(sequence_length=length), tokens=tokens, tokens_per_step=batch, seed=seed
    )
    config = pretrain.PretrainConfig(
        start=Random(),
        checkpoint=Checkpoint(folder=""),
        model=ModelConfig(**shape),
        objective=NextToken(),
        optimizer=Muon(lr=rate, adamw_lr=3 * rate, momentum=momentum, steps=3),
        schedule=Wsd(decay_fraction=decay),
        average=Last(),
        seed=seed,
    )
    began = time.perf_counter()
    done = curriculum.run(plan, data, Log())
    facts = pretrain.run(config, data, Log())
    seconds = time.perf_counter() - began
    model, _ = load_model(data / "pretrain")
    bits, documents = bits_per_byte(model, data)
    return {
        "time": seconds,
        "tokens": done["tokens"],
        "bits_per_byte": bits,
        "parameters": facts["parameters"],
    }, documents

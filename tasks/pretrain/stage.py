"""Pretraining: follows the curriculum's plan, from random weights to a language model."""

import math
import shutil
from functools import partial
from pathlib import Path

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lm.checkpoint import device, save_model
from lm.config import Seed, choice
from lm.model import Decoder, ModelConfig
from lm.sampler import generate
from lm.tokenizer import Tokenizer
from lm.training.batch import Batch, Metrics
from lm.training.components import Component
from lm.training.data.plan import Plan
from lm.training.data.sequence_losses import SequenceLosses, means
from lm.training.growing import Growing
from lm.training.loop import train
from lm.training.parallel import parts_of_a_batch
from lm.training.prefetch import Prefetcher
from lm.training.recipe import Recipe
from lm.transfer import Tensors
from lm.unmasking import unmask
from tasks.core.config import Checkpoint, ConfigError
from tasks.core.log import Log
from tasks.core.tables import read_table
from tasks.pretrain import growths, objectives, starts
from tasks.pretrain.objectives.base import LossPosition
from tasks.pretrain.step import loss_of
from tasks.pretrain.window_warmup import Windows, WindowWarmup

# Of a sample: the first tokens of a held-out document, and what the model makes of them.
PROMPT_TOKENS, SAMPLE_TOKENS, SAMPLES = 16, 48, 3
LOSSES = "sequence_losses.npy"


class PretrainConfig(Recipe):
    start: choice(starts)
    checkpoint: Checkpoint
    model: ModelConfig
    objective: choice(objectives)
    growth: choice(growths) = growths.Whole()
    within_documents: bool = Field(
        False, description="attention sees nothing of the documents before in a packed sequence"
    )
    window_warmup: WindowWarmup = Field(default=WindowWarmup(), description="sliding windows that grow")
    samples_every: int = Field(0, ge=0, description="steps between samples of text; 0: none")
    seed: Seed

    @model_validator(mode="after")
    def _of_one_kind(self) -> "PretrainConfig":
        name = self.objective.name
        if self.objective.causal != self.model.causal:
            wanted = "true" if self.objective.causal else "false"
            raise ValueError(f"objective: {name} trains a model of pretrain.model.causal {wanted}: set it so")
        if not self.model.causal and self.start.name != "random":
            raise ValueError(
                f"start: {name} trains from random weights alone: no start of {self.start.name} has its mask"
            )
        if isinstance(self.objective, objectives.Salt) and self.start.name == "hugging_face":
            raise ValueError(
                "objective: salt is taught by the model in checkpoint.folder, which start hugging_face goes on from: set start "
                "to random, or to one by which a larger model begins as it"
            )
        return self

    @model_validator(mode="after")
    def _grows_from_nothing(self) -> "PretrainConfig":
        if self.growth.grows and self.start.name != "random":
            raise ValueError("growth: a model that grows begins with random weights: set start to random")
        if self.growth.grows and (self.rounding.name != "none" or self.optimizer_states.format != "fp32"):
            raise ValueError(
                "growth: layers move as they are kept, in fp32: set rounding.name to none and optimizer_states.format to fp32"
            )
        if self.growth.grows and self.has_trials:
            raise ValueError("growth: trials of rates go back to weights of before a layer came: set another schedule")
        if self.growth.grows and (self.fast_forward.every or self.lookahead.share):
            raise ValueError(
                "growth: layers move, where movements of before mean nothing: set fast_forward.every and lookahead.share to 0"
            )
        return self


def run(config: PretrainConfig, data: Path, log: Log) -> dict[str, float]:
    """data/curriculum, data/tokenize -> data/pretrain."""
    plan, tokenizer = Plan(data / "curriculum", data / "tokenize"), Tokenizer.load(data / "tokenize")
    try:
        model = config.start(config.model, tokenizer, Path(config.checkpoint.folder), config.seed)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    longest, context = plan.longest - 1, model.config.context
    if longest > context:
        raise ConfigError(f"pretrain.model.context: {context} is shorter than the plan's sequences of {longest} tokens")
    step = plan.first_uneven(parts := parts_of_a_batch(config))
    if step is not None:
        raise ConfigError(
            f"curriculum.tokens_per_step: step {step} of the plan has {len(plan.batch(step))} sequences, which {parts} shards "
            "or ranks cannot divide equally: change it, pretrain.shards or TOKENMILL_RANKS"
        )
    config.window_warmup.check(model.config, plan.steps)
    if config.growth.grows:
        config.growth.check(model.config)
    model.to(device())
    try:
        objective = config.objective.with_checkpoint(Path(config.checkpoint.folder), tokenizer, model, longest)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    config.objective.add_modules(model, config.seed)
    documents = read_table(data / "tokenize" / "documents.parquet", ["length", "bytes"]).to_pydict()
    bits_per_byte = sum(documents["length"]) / max(sum(documents["bytes"]), 1) / math.log(2)
    losses = SequenceLosses((log.scratch or data / "pretrain") / LOSSES, plan.sequences)
    prompts = [
        [*tokenizer.before, *tokenizer.encode(text)][:PROMPT_TOKENS] for text in held_out_texts(data / "tokenize")
    ]

    shapes = plan.shapes

    def fetch(step: int) -> Tensors:
        return plan.batch(step), plan.loss_mask(step), plan.bounds(step) if config.within_documents else None

    def batch_of(step: int, host: Tensors, here: Tensors) -> Batch:
        if config.samples_every and step and step % config.samples_every == 0:
            log.samples(step, sample(model, tokenizer, prompts, config.seed))
        (ids_BN, counts_BT, bounds), (tokens_BN, counted_BT, _) = host, here
        B, T = ids_BN.shape[0], ids_BN.shape[1] - 1
        tokens = B * T if counts_BT is None else int(counts_BT.sum())
        at = LossPosition(config.seed, step, plan.steps)

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            counted = None if counted_BT is None else counted_BT[rows]
            each_RT = torch.empty(tokens_BN[rows, 1:].shape, device=tokens_BN.device)
            share, metrics = loss_of(objective, model, tokens_BN, bounds, rows, tokens, counted, each_RT, at)
            losses.rows(rows, means(each_RT, counted))
            cross_entropy = metrics.get("cross_entropy", share.detach())
            return share, {**metrics, "bits_per_byte": cross_entropy * bits_per_byte}

        traces, after = partial(losses.of_step, step), partial(losses.keep, step)
        return Batch(B, T, tokens, loss, traces=traces, after=after, content=(ids_BN,), shapes=shapes)

    given = [tokenizer.to_json(), prompts, bits_per_byte]
    growing: list[Component] = [Windows(model, config.window_warmup)] if config.window_warmup.steps else []
    growing += [Growing(config.growth)] if config.growth.grows else []

    def seen(step: int) -> Tensors:
        found = fetch(step)
        if not config.growth.grows:
            return found
        return (
            *found,
            *(of(model.config.layers, step, plan.steps) for of in (config.growth.depth, config.growth.grown)),
        )

    shared = not config.objective.by_run  # else a step of another run is another
    trunks = log.trunks(config, plan.steps, [model], given, seen, losses) if shared else None
    with Prefetcher(fetch, batch_of, plan.steps, model.embedding.weight.device) as batch_at:
        train(model, config, plan.steps, batch_at, log, trunks, growing)
    config.objective.drop(model)
    save_model(data / "pretrain", model, tokenizer)
    if log.scratch:
        shutil.copyfile(log.scratch / LOSSES, data / "pretrain" / LOSSES)
    return {"steps": plan.steps, "parameters": model.num_parameters()}


def held_out_texts(folder: Path) -> list[str]:
    """The first SAMPLES held-out documents that are not empty."""
    texts = read_table(folder / "held_out.parquet", ["text"])["text"].to_pylist()
    return [text for text in texts if text.strip()][:SAMPLES]


def sample(model: Decoder, tokenizer: Tokenizer, prompts: list[list[int]], seed: int) -> dict[str, str]:
    """What follows each prompt, at temperature 0.8; the same draws at every step."""
    prompts = [prompt[: model.config.context - 1] for prompt in prompts]
    if not model.config.causal:
        drawn = unmask(model, prompts, SAMPLE_TOKENS, SAMPLE_TOKENS, seed, temperature=0.8)
        return {tokenizer.decode(p): tokenizer.decode(ids) for p, ids in zip(prompts, drawn, strict=True)}
    with torch.no_grad():
        written = generate(model, prompts, SAMPLE_TOKENS, 0.8, tokenizer.eos_id, seed, rows=SAMPLES)
    return {tokenizer.decode(p): tokenizer.decode(w.ids) for p, w in zip(prompts, written, strict=True)}

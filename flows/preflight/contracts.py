"""Edge contracts that the parameters alone break: what one stage asks of another, with the numbers as they will be.

The toy run makes all of these numbers small, so whatever depends on their true size is told here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flows.forecast.workload import conversations, shape_of
from flows.preflight.finding import Finding, findings_of
from lm.model import Decoder, ModelConfig
from lm.tokenizer import SPECIALS, Tokenizer
from lm.training.parallel import parts_of_a_batch
from tasks.core.config import load
from tasks.curriculum.stage import CurriculumConfig
from tasks.distill.stage import DistillConfig
from tasks.evaluate.stage import EvaluateConfig
from tasks.filter.stage import SLOTS, FilterConfig
from tasks.ingest.stage import IngestConfig
from tasks.pretrain.stage import PretrainConfig
from tasks.quantize.stage import QuantizeConfig
from tasks.rl.stage import RlConfig
from tasks.sft.stage import SftConfig
from tasks.tokenize.stage import TokenizeConfig

# GPTQ inverts a matrix of the square of a weight's columns: 0.2 s and 0.1 GB at this many.
COLUMNS_TRIED = 2048


@dataclass(frozen=True)
class Sections:
    """The sections that have edges among them. shape: of the model that is pretrained, with its vocabulary."""

    ingest: IngestConfig
    filter: FilterConfig
    tokenize: TokenizeConfig
    curriculum: CurriculumConfig
    pretrain: PretrainConfig
    sft: SftConfig
    rl: RlConfig
    distill: DistillConfig
    quantize: QuantizeConfig
    evaluate: EvaluateConfig
    shape: ModelConfig

    @property
    def length(self) -> int:
        """Predictions in the longest sequence of the plan."""
        method = self.curriculum.method
        return getattr(method, "sequence_length", None) or method.max_length


def read_sections(params: dict[str, Any]) -> Sections:
    """Raises ConfigError with a line a mistake."""
    names = [name for name in Sections.__dataclass_fields__ if name != "shape"]
    kinds: dict[str, Any] = {name: Sections.__annotations__[name] for name in names}
    return Sections(**{name: load(name, kind, params) for name, kind in kinds.items()}, shape=shape_of(params))


def check_edges(params: dict[str, Any]) -> list[Finding]:
    """All that is broken. Raises ConfigError where a section, or the checkpoint it names, cannot be read at all."""
    sections = read_sections(params)
    rules: list[Callable[[Sections], Iterator[Finding]]] = [
        labels, vocabulary, sequences, steps, shards, student, demonstrations, prompts, advantages, quantizable,
    ]  # fmt: skip
    return findings_of(*(lambda rule=rule: rule(sections) for rule in rules))


def labels(s: Sections) -> Iterator[Finding]:
    """A rule of filter is kept to sources that there are: of others it would judge nothing, without a word."""
    there = [source.called for source in s.ingest.sources]
    for slot in SLOTS:
        asked = getattr(s.filter, slot).sources
        unknown = [label for label in asked or [] if label not in there]
        if unknown or asked == []:
            what = (
                "no source is labelled " + ", ".join(map(repr, unknown)) if unknown else "is empty: nothing is judged"
            )
            remedy = f"name some of {', '.join(there)}, or leave it out for all"
            yield Finding(f"params.yaml: filter.{slot}.sources", what, remedy)


def vocabulary(s: Sections) -> Iterator[Finding]:
    """The model has a row for every token: as many as the tokenizer will have, or 0, which takes them from it."""
    method, asked = s.tokenize.method, s.pretrain.model.vocab_size
    if s.pretrain.start.name == "hugging_face":
        if method.name != "hugging_face":
            yield Finding(
                "params.yaml: tokenize.method.name",
                f"{method.name}, but pretrain.start takes a model that has tokens of its own",
                "use hugging_face for both",
            )
        return
    if method.name == "hugging_face":
        has = Tokenizer.adopt(Path(s.tokenize.checkpoint.folder)).vocab_size
    else:
        has = method.vocab_size if method.name == "bpe" else 256 + len(SPECIALS)
    if asked not in (0, has):
        yield Finding(
            "params.yaml: pretrain.model.vocab_size", f"{asked}, but tokenize.method {method.name} makes {has}", "use 0"
        )


def sequences(s: Sections) -> Iterator[Finding]:
    """No sequence is longer than the model's context, and a step has room for one."""
    if s.length > s.shape.context:
        yield Finding(
            "params.yaml: pretrain.model.context",
            f"{s.shape.context} is shorter than the plan's sequences of {s.length} tokens",
            f"raise it to {s.length}, or shorten curriculum.method's sequences",
        )
    per_step = s.curriculum.tokens_per_step
    if per_step < s.length:
        yield Finding(
            "params.yaml: curriculum.tokens_per_step",
            f"{per_step} is less than one sequence of {s.length}",
            f"raise it to {s.length}",
        )
    elif not hasattr(s.curriculum.method, "sequence_length") and per_step % s.length:
        yield Finding(
            "params.yaml: curriculum.tokens_per_step",
            f"{per_step} is no multiple of curriculum.method.max_length {s.length}",
            f"use {per_step // s.length * s.length}",
        )


def steps(s: Sections) -> Iterator[Finding]:
    """The plan's tokens make a step at least."""
    tokens, per_step = s.curriculum.tokens, s.curriculum.tokens_per_step
    if tokens < per_step:
        yield Finding("params.yaml: curriculum.tokens", f"{tokens} is less than one step of {per_step}", "raise it")


def shards(s: Sections) -> Iterator[Finding]:
    """Every step's rows divide into the parts that the stage's shards or ranks ask for."""
    sequences_a_step = max(1, s.curriculum.tokens_per_step // s.length)
    texts = min(s.distill.corpus_sequences, sequences_a_step)
    for key, recipe, rows in (
        ("curriculum.tokens_per_step", s.pretrain, sequences_a_step),
        ("sft.batch", s.sft, s.sft.batch),
        ("rl.prompts", s.rl, s.rl.prompts * s.rl.samples // s.rl.minibatches),
        ("distill.batch", s.distill, s.distill.batch + texts),
    ):
        parts = parts_of_a_batch(recipe)
        if rows % parts:
            yield Finding(
                f"params.yaml: {key}", f"{rows} rows a step cannot be divided into {parts} shards", "change either"
            )


def student(s: Sections) -> Iterator[Finding]:
    """The student is smaller than its teacher, whose width and vocabulary it shares."""
    if s.distill.student_layers >= s.shape.layers:
        yield Finding(
            "params.yaml: distill.student_layers",
            f"{s.distill.student_layers} is no fewer than the teacher's {s.shape.layers}",
            "lower it, or raise pretrain.model.layers",
        )


def demonstrations(s: Sections) -> Iterator[Finding]:
    """Every split has problems, and one demonstration at least fits the context."""
    for split in ("sft", "rl", "test"):
        if not conversations(s.sft.problems, split, s.shape.vocab_size):
            yield Finding(
                "params.yaml: problems", f"the split {split} has no problem", "put more problems into problems.folder"
            )
    lengths = [sum(pair) for pair in conversations(s.sft.problems, "sft", s.shape.vocab_size)]
    if lengths and min(lengths) > s.shape.context:
        yield Finding(
            "params.yaml: pretrain.model.context",
            f"{s.shape.context} is too short for sft: the shortest demonstration has about {min(lengths)} tokens",
            "raise it",
        )


def prompts(s: Sections) -> Iterator[Finding]:
    """One prompt at least leaves room for as many new tokens as its stage asks for."""
    calibration = s.quantize.calibration
    asked = [
        ("rl.max_new_tokens", "rl", s.rl.max_new_tokens),
        ("distill.max_new_tokens", "sft", s.distill.max_new_tokens),
        ("evaluate.max_new_tokens", "test", s.evaluate.max_new_tokens),
    ]
    if calibration.problems and (s.quantize.method.needs_calibration or s.quantize.embedding.needs_calibration):
        asked.append(("quantize.calibration.max_new_tokens", "sft", calibration.max_new_tokens))
    for key, split, new_tokens in asked:
        shortest = min((prompt for prompt, _ in conversations(s.sft.problems, split, s.shape.vocab_size)), default=0)
        if shortest + new_tokens > s.shape.context:
            yield Finding(
                f"params.yaml: {key}",
                f"no prompt fits the context of {s.shape.context} less {new_tokens}: the shortest has about {shortest} tokens",
                "lower it, or raise pretrain.model.context",
            )


def advantages(s: Sections) -> Iterator[Finding]:
    """Answers to one problem, half of them right where there are several, must not all get the advantage 0."""
    rewards_GS = (torch.arange(4)[:, None] + torch.arange(s.rl.samples)) % 2 * 1.0
    found_GS = s.rl.advantage(rewards_GS, torch.ones_like(rewards_GS), torch.zeros(4))
    if not found_GS.any():
        yield Finding(
            "params.yaml: rl.samples",
            f"with {s.rl.samples} to a problem, rl.advantage {s.rl.advantage.name} is always 0 and nothing is learned",
            "ask for 2 at least",
        )


def quantizable(s: Sections) -> Iterator[Finding]:
    """Each matrix of the student, by its number of columns, goes through its method: two rows of it, which is cheap."""
    with torch.device("meta"):
        weights = Decoder(s.shape.model_copy(update={"layers": 1})).named_parameters()
    shapes = {(s.quantize.method_of(name), weight.shape[1]): name for name, weight in weights if weight.ndim == 2}
    for (method, columns), name in shapes.items():
        if columns > COLUMNS_TRIED:
            continue
        try:
            method(torch.linspace(-1, 1, 2 * columns).view(2, columns), None).dequantize()
        except (ValueError, RuntimeError) as error:
            slot = "embedding" if method is s.quantize.embedding else "method"
            yield Finding(
                f"params.yaml: quantize.{slot}",
                f"{name} of {columns} columns: {error}",
                "choose another method or group",
            )

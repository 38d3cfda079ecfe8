"""What a step of each training stage is made of, told from the parameters alone: no stage needs to have run.

Letters: B rows, T predictions a row, N = T + 1 tokens, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from tokenizers import Regex, pre_tokenizers
from torch import Tensor

from flows.forecast.dry_run import Sampling, Step
from kernels.linear_cross_entropy import linear_cross_entropy
from kernels.linear_divergence import linear_divergence
from lm.hugging_face.load import config_of
from lm.model import Decoder, ModelConfig
from lm.problems.example import Example
from lm.sampler import rows_for
from lm.tokenizer import SPECIALS, Tokenizer
from lm.training.batch import Batch, Figures
from lm.training.data.conversations import hidden_at, token_logps
from lm.training.recipe import Recipe
from tasks.core.config import ConfigError, load
from tasks.distill.stage import DistillConfig, student_of
from tasks.pretrain.stage import PretrainConfig
from tasks.rl.stage import RlConfig
from tasks.sft.stage import SftConfig
from tasks.tokenize.methods.bpe import WORDS
from tasks.tokenize.stage import TokenizeConfig


@dataclass(frozen=True)
class Workload:
    """A training stage. tokens: that count, in all steps. shape: of the model it trains. step(): what is done in each, with the
    longest sequences that there are. data_bytes: tokens and plan in the process's memory at its end."""

    stage: str
    recipe: Recipe
    shape: ModelConfig
    steps: int
    tokens: float
    step: Callable[[], Step]
    data_bytes: float = 0.0


def workloads(params: dict[str, Any]) -> list[Workload]:
    """The training stages in the order of the pipeline. Raises ConfigError for what cannot be told."""
    shape = shape_of(params)
    return [
        pretraining(params, shape),
        tuning(params, shape),
        reinforcement(params, shape),
        distillation(params, shape),
    ]


def shape_of(params: dict[str, Any]) -> ModelConfig:
    """pretrain.model, or that of the checkpoint it starts from; a vocabulary of 0 is the tokenizer's."""
    config, method = load("pretrain", PretrainConfig, params), load("tokenize", TokenizeConfig, params).method
    folder = Path(config.checkpoint.folder)
    try:
        shape = config_of(folder) if config.start.name == "hugging_face" else config.model
        if method.name == "hugging_face":
            return shape.model_copy(update={"vocab_size": max(shape.vocab_size, Tokenizer.adopt(folder).vocab_size)})
    except ValueError as error:
        raise ConfigError(str(error)) from None
    tokens = method.vocab_size if method.name == "bpe" else 256 + len(SPECIALS)
    return shape.model_copy(update={"vocab_size": shape.vocab_size or tokens})


def pretraining(params: dict[str, Any], shape: ModelConfig) -> Workload:
    config, plan = load("pretrain", PretrainConfig, params), params["curriculum"]
    method = plan["method"]
    T = method.get("sequence_length") or method.get("max_length") or 256
    B, steps = plan["tokens_per_step"] // T, plan["tokens"] // plan["tokens_per_step"]
    if not B or not steps:
        raise ConfigError(
            f"curriculum.tokens_per_step: {plan['tokens_per_step']} of {plan['tokens']} in all make no step"
        )
    if shape.context < T:
        raise ConfigError(f"pretrain.model.context: {shape.context} is shorter than the plan's sequences of {T} tokens")

    def step() -> Step:
        model, ids_BN = Decoder(shape), torch.zeros((B, T + 1), dtype=torch.int64)
        return Step(model, Batch(B, T, B * T, lambda rows: config.objective(model, ids_BN[rows], None, B * T)))

    # memory-mapped tokens of 2 bytes, whose pages count once they were read; 16 bytes a range of the plan, some a document
    # and a sequence
    return Workload("pretrain", config, shape, steps, steps * B * T, step, steps * B * (2 * T + 60))


def tuning(params: dict[str, Any], shape: ModelConfig) -> Workload:
    config = load("sft", SftConfig, params)
    lengths = [pair for pair in conversations(config.problems, "sft", shape.vocab_size) if sum(pair) <= shape.context]
    if not lengths:
        raise ConfigError(f"sft: none of the demonstrations fits the context of {shape.context} tokens")
    B, T = config.batch, max(map(sum, lengths)) - 1
    answered = mean(answer for _, answer in lengths) / (T + 1)

    def step() -> Step:
        model, ids_BT = Decoder(shape), torch.zeros((B, T), dtype=torch.int64)

        def loss(rows: slice) -> tuple[Tensor, Figures]:
            x_TD = model.hidden(ids_BT[rows]).flatten(0, 1)
            kept = torch.arange(int(len(x_TD) * answered) + 1)
            return linear_cross_entropy(x_TD[kept], model.head_weight, torch.zeros_like(kept), denominator=1.0)[0], {}

        return Step(model, Batch(B, T, B * T, loss))

    return Workload("sft", config, shape, config.steps, config.steps * B * mean(map(sum, lengths)), step)


def reinforcement(params: dict[str, Any], shape: ModelConfig) -> Workload:
    config = load("rl", RlConfig, params)
    prompt = longest_prompt("rl", config, "rl", shape)
    answers, T = config.prompts * config.samples, prompt + config.max_new_tokens - 1
    B = answers // config.minibatches

    def step() -> Step:
        model, ids_BN = Decoder(shape), torch.zeros((B, T + 1), dtype=torch.int64)

        def loss(rows: slice) -> tuple[Tensor, Figures]:
            kept = last_of(rows.stop - rows.start, T, config.max_new_tokens)
            logps_BT = token_logps(model, ids_BN[rows], kept, config.temperature)
            return config.loss(logps_BT, logps_BT.detach(), torch.ones(len(logps_BT)), torch.ones_like(logps_BT))

        written = (
            answers,
            rows_for(model, answers),
            config.prompts,
            prompt,
            config.max_new_tokens,
            config.steps_a_rollout,
        )
        return Step(model, Batch(B, T, B * T, loss), Sampling(model, *written))

    return Workload("rl", config, shape, config.steps, config.steps * B * config.max_new_tokens, step)


def distillation(params: dict[str, Any], shape: ModelConfig) -> Workload:
    config = load("distill", DistillConfig, params)
    prompt = longest_prompt("distill", config, "rl", shape)
    method = params["curriculum"]["method"]
    texts, text_length = config.corpus_sequences, method.get("sequence_length") or method.get("max_length") or 256
    B, T = config.batch, prompt + config.max_new_tokens - 1
    student = shape.model_copy(update={"layers": config.student_layers})

    def step() -> Step:
        teacher = Decoder(shape)
        model = student_of(teacher, config.student_layers)
        teacher.requires_grad_(False)
        answers_BT, texts_BT = (
            torch.zeros((B, T), dtype=torch.int64),
            torch.zeros((texts, text_length), dtype=torch.int64),
        )

        def divergence(ids_BT: Tensor, counted: int) -> Tensor:
            kept = last_of(ids_BT.shape[0], ids_BT.shape[1], counted)
            with torch.no_grad():
                theirs_KD = hidden_at(teacher, ids_BT, kept)
            mine_KD = hidden_at(model, ids_BT, kept)
            return linear_divergence(mine_KD, model.head_weight, theirs_KD, teacher.head_weight, config.divergence, 1.0)

        def loss(rows: slice) -> tuple[Tensor, Figures]:
            texts = texts_BT[max(rows.start - B, 0) : max(rows.stop - B, 0)]
            parts = ((answers_BT[rows], config.max_new_tokens), (texts, text_length))
            return sum((divergence(*part) for part in parts if len(part[0])), torch.zeros(())), {}

        batch = Batch(B + texts, max(T, text_length), B * T + texts * text_length, loss)
        return Step(model, batch, Sampling(teacher, B, rows_for(teacher, B), B, prompt, config.max_new_tokens))

    tokens = config.steps * (B * config.max_new_tokens + texts * text_length)
    return Workload("distill", config, student, config.steps, tokens, step)


def last_of(rows: int, length: int, counted: int) -> Tensor:
    """Places of the last `counted` of so many predictions in each row, in rows laid end to end."""
    return torch.arange(rows * length).view(rows, length)[:, -counted:].flatten()


def longest_prompt(stage: str, config: Any, split: str, shape: ModelConfig) -> int:
    """Tokens of the longest prompt that leaves room for the answer. Raises ConfigError when none does."""
    room = shape.context - config.max_new_tokens
    fitting = [prompt for prompt, _ in conversations(config.problems, split, shape.vocab_size) if prompt <= room]
    if not fitting:
        raise ConfigError(
            f"{stage}.max_new_tokens: no prompt fits the context of {shape.context} less {config.max_new_tokens}"
        )
    return max(fitting)


@cache
def conversations(problems: Any, split: Any, vocab_size: int) -> list[tuple[int, int]]:
    """(prompt, answer) of each problem in tokens, the special ones among them: as many as words, which is what a trained BPE
    makes of frequent ones, or as bytes where the vocabulary has no merges. Raises ConfigError where the files are missing."""
    try:
        examples: list[Example] = problems.examples(split)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")

    def tokens(text: str) -> int:
        return len(words.pre_tokenize_str(text)) if vocab_size > 256 + len(SPECIALS) else len(text.encode())

    return [(tokens(e.prompt) + 2, tokens(e.demonstration) + 1) for e in examples]

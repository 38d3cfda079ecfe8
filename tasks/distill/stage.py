"""Distillation: a smaller student learns the distribution of its teacher, over answers and over plain text."""

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from lm import problems
from lm.checkpoint import device, save_model
from lm.config import choice
from lm.model import Decoder
from lm.model_folder import read_model
from lm.sampler import generate, rows_for
from lm.training.batch import Batch, Metrics
from lm.training.data.conversations import Conversation, collate, places, sample_indices
from lm.training.data.plan import Plan
from lm.training.loop import train
from lm.training.recipe import Recipe
from lm.transfer import moved
from tasks.core.config import ConfigError, StartModel
from tasks.core.log import Log
from tasks.core.tokens import check_tokens
from tasks.distill import divergences
from tasks.distill.step import Compared, loss_of


class DistillConfig(Recipe):
    model: StartModel
    student_layers: int = Field(2, gt=0, description="layers of the student, which begin as layers of the teacher")
    steps: int = Field(200, gt=0)
    batch: int = Field(48, gt=0, description="problems a step, answered by the teacher")
    corpus_sequences: int = Field(4, ge=0, description="sequences of pretraining text a step")
    max_new_tokens: int = Field(32, gt=0)
    temperature: float = Field(1.0, ge=0, description="of the teacher's answers")
    divergence: choice(divergences)
    problems: choice(problems)
    seed: int


def taken_layers(teacher: int, student: int) -> list[int]:
    """Numbers of the teacher's layers that a student begins with: evenly spaced, the first and the last among them."""
    return [round(mine * (teacher - 1) / max(student - 1, 1)) for mine in range(student)]


def student_of(teacher: Decoder, layers: int) -> Decoder:
    """A decoder with evenly spaced layers of the teacher, the first and the last among them (as DistilBERT,
    arXiv:1910.01108), and its embeddings and norms. Raises ConfigError unless it is smaller than the teacher."""
    if layers >= teacher.config.layers:
        raise ConfigError(f"distill.student_layers: {layers} is no fewer than the teacher's {teacher.config.layers}")
    taken = taken_layers(teacher.config.layers, layers)
    student = Decoder(teacher.config.of_layers(taken))
    student.load_state_dict(
        {n: w for n, w in teacher.state_dict().items() if not n.startswith("blocks.")}, strict=False
    )
    for mine, theirs in enumerate(taken):
        student.blocks[mine].load_state_dict(teacher.blocks[theirs].state_dict())
    return student


def run(config: DistillConfig, data: Path, log: Log) -> dict[str, float]:
    """data/<model>, the teacher, data/curriculum and data/tokenize -> data/distill.

    Loss: divergence (nats a token) over the teacher's answers, plus the same over pretraining text, each its own mean.
    """
    teacher, tokenizer = read_model(data / config.model)
    if config.corpus_sequences:
        check_tokens(f"distill.model: {config.model}", tokenizer, data / "tokenize")
    student = student_of(teacher, config.student_layers)
    teacher.to(device()).requires_grad_(False)
    student.to(device())
    plan = Plan(data / "curriculum", data / "tokenize")
    room = teacher.config.context - config.max_new_tokens
    every = [tokenizer.chat(e.prompt) for split in ("sft", "rl") for e in config.problems.examples(split)]
    prompts = [prompt for prompt in every if len(prompt) <= room]
    if not prompts:
        raise ConfigError(
            f"distill.max_new_tokens: no prompt fits the context of {teacher.config.context} less {config.max_new_tokens}"
        )

    def compared(ids_RT: Tensor, mask_RT: Tensor, denominator: int) -> Compared:
        """Where the mask, which is in host memory, is not 0."""
        (places_K,) = moved([places(mask_RT)], device())
        return Compared(ids_RT, places_K, denominator)

    def chosen_at(step: int) -> list[list[int]]:
        return [prompts[i] for i in sample_indices(step, config.batch, len(prompts), config.seed)]

    def text_at(step: int) -> Tensor:
        return plan.batch(step % plan.steps)[: config.corpus_sequences, :-1]

    def batch_at(step: int) -> Batch:
        batch = chosen_at(step)
        seed, rows = config.seed * 1_000_003 + step, rows_for(teacher, config.batch)
        answers = generate(teacher, batch, config.max_new_tokens, config.temperature, tokenizer.end_id, seed, rows)
        conversations = [Conversation(p, a.ids) for p, a in zip(batch, answers, strict=True)]
        content = (*collate(conversations, tokenizer.pad_id), text_at(step))
        mask_BT = content[1]  # on the host, where places are found without waiting for a GPU
        counted = int(mask_BT.sum())
        ids_BN, text_BT = moved((content[0], content[2]), device())
        everywhere_BT = torch.ones(text_BT.shape)
        answered = len(ids_BN)

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            """Rows count the answers first, then the sequences of text."""
            here, there = rows, slice(max(rows.start - answered, 0), max(rows.stop - answered, 0))
            answers = compared(ids_BN[here, :-1], mask_BT[here], counted)
            text = compared(text_BT[there], everywhere_BT[there], text_BT.numel()) if config.corpus_sequences else None
            return loss_of(student, teacher, config.divergence, answers, text)

        length = max(mask_BT.shape[1], text_BT.shape[1])
        return Batch(answered + len(text_BT), length, counted + text_BT.numel(), loss, content=content)

    trunks = log.trunks(
        config,
        config.steps,
        [student, teacher],
        [tokenizer.to_json()],
        lambda step: [chosen_at(step), text_at(step)],
    )
    train(student, config, config.steps, batch_at, log, trunks)
    save_model(data / "distill", student, tokenizer)
    share = student.num_parameters() / teacher.num_parameters()
    return {"steps": config.steps, "parameters": student.num_parameters(), "parameter_fraction": share}

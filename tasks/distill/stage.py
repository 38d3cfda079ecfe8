"""Distillation: a smaller student learns the distribution of its teacher, over answers and over plain text."""

from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lm import problems
from lm.checkpoint import device, save_model
from lm.config import choice
from lm.model_folder import read_model
from lm.sampler import generate, rows_for
from lm.training.batch import Batch, Metrics
from lm.training.data.conversations import Conversation, collate, demonstrated, places, sample_indices
from lm.training.data.plan import Plan
from lm.training.loop import train
from lm.training.recipe import Recipe
from lm.transfer import moved
from tasks.core.config import ConfigError, StartModel
from tasks.core.log import Log
from tasks.core.tokens import check_tokens
from tasks.distill import answers as kinds_of_answers
from tasks.distill import divergences, students
from tasks.distill import teachers as kinds_of_teachers
from tasks.distill.answers import Teacher
from tasks.distill.answers.base import Asked
from tasks.distill.step import Compared, loss_of
from tasks.distill.teachers import Alone
from tasks.distill.teachers.base import Fixed


class DistillConfig(Recipe):
    model: StartModel
    student: choice(students)
    teachers: choice(kinds_of_teachers) = Alone()
    steps: int = Field(200, gt=0)
    batch: int = Field(48, gt=0, description="problems a step")
    answers: choice(kinds_of_answers) = Teacher()
    corpus_sequences: int = Field(4, ge=0, description="sequences of pretraining text a step")
    max_new_tokens: int = Field(32, gt=0)
    divergence: choice(divergences)
    labels: float = Field(
        0.0,
        ge=0,
        le=1,
        description="weight of the negative log-likelihood of the tokens that are there; 1 - labels is the divergence's",
    )
    problems: choice(problems)
    seed: int


def run(config: DistillConfig, data: Path, log: Log) -> dict[str, float]:
    """data/<model>, the teacher, data/curriculum and data/tokenize -> data/distill.

    Loss: divergence (nats a token) over answers to problems, plus the same over pretraining text, each its own mean.
    """
    teacher, tokenizer = read_model(data / config.model)
    if config.corpus_sequences:
        check_tokens(f"distill.model: {config.model}", tokenizer, data / "tokenize")
    student = config.student.build(teacher, config.seed)
    teacher.to(device()).requires_grad_(False)
    student.to(device())
    taught = config.teachers.open(teacher, tokenizer)
    plan = Plan(data / "curriculum", data / "tokenize")
    room = teacher.config.context - config.max_new_tokens
    every = [demonstrated(tokenizer, e) for split in ("sft", "rl") for e in config.problems.examples(split)]
    problems = [
        each
        for each in every
        if len(each.prompt) <= room and config.answers.fits(each.completion, config.max_new_tokens)
    ]
    if not problems:
        why = f"no prompt fits the context of {teacher.config.context} less {config.max_new_tokens}"
        if any(len(each.prompt) <= room for each in every):
            why = f"no demonstration has {config.max_new_tokens} tokens at the most: raise it"
        raise ConfigError(f"distill.max_new_tokens: {why}")

    def compared(ids_RN: Tensor, mask_RT: Tensor, denominator: int) -> Compared:
        """Where the mask, which is in host memory, is not 0."""
        (places_K,) = moved([places(mask_RT)], device())
        return Compared(ids_RN[:, :-1], places_K, ids_RN[:, 1:].flatten()[places_K], denominator)

    def chosen_at(step: int) -> list[Conversation]:
        return [problems[i] for i in sample_indices(step, config.batch, len(problems), config.seed)]

    def text_at(step: int) -> Tensor:
        return plan.batch(step % plan.steps)[: config.corpus_sequences]

    def answers_at(step: int, chosen: list[Conversation]) -> list[Conversation]:
        seed = config.seed * 1_000_003 + step

        def sample(by_student: bool, prompts: list[list[int]], temperature: float) -> list[list[int]]:
            model = student if by_student else teacher
            model.eval()
            rows = rows_for(model, config.batch)
            found = generate(model, prompts, config.max_new_tokens, temperature, tokenizer.end_id, seed, rows)
            model.train(by_student)
            return [each.ids for each in found]

        coin = np.random.Generator(np.random.Philox(key=[config.seed, (1 << 42) + step])).random()
        prompts, shown = [each.prompt for each in chosen], [each.completion for each in chosen]
        written = config.answers(Asked(prompts, shown, coin, sample))
        return [Conversation(prompt, ids) for prompt, ids in zip(prompts, written, strict=True)]

    def batch_at(step: int) -> Batch:
        models, labels = taught.at(step, student), config.teachers.labels(config.labels, step, config.steps)
        answers, text = collate(answers_at(step, chosen_at(step)), tokenizer.pad_id), text_at(step)
        mask_BT = answers[1]  # on the host, where places are found without waiting for a GPU
        content = (*answers, text[:, :-1])
        counted = int(mask_BT.sum())
        ids_BN, text_BN = moved((answers[0], text), device())
        everywhere_BT = torch.ones(content[2].shape)
        answered = len(ids_BN)

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            """Rows count the answers first, then the sequences of text."""
            here, there = rows, slice(max(rows.start - answered, 0), max(rows.stop - answered, 0))
            answers = compared(ids_BN[here], mask_BT[here], counted)
            everywhere = everywhere_BT.numel()
            text = compared(text_BN[there], everywhere_BT[there], everywhere) if config.corpus_sequences else None
            return loss_of(student, models, config.divergence, labels, answers, text)

        length = max(mask_BT.shape[1], everywhere_BT.shape[1])
        return Batch(answered + len(text_BN), length, counted + everywhere_BT.numel(), loss, content=content)

    others = taught.at(0, student) if isinstance(taught, Fixed) else [teacher]
    trunks = log.trunks(
        config,
        config.steps,
        [student, *others],
        [tokenizer.to_json()],
        lambda step: [
            [[each.prompt, each.completion] for each in chosen_at(step)],
            text_at(step)[:, :-1],
            config.teachers.labels(0.0, step, config.steps),
        ],
    )
    train(student, config, config.steps, batch_at, log, trunks, [taught])
    save_model(data / "distill", student, tokenizer)
    share = student.num_parameters() / teacher.num_parameters()
    return {"steps": config.steps, "parameters": student.num_parameters(), "parameter_fraction": share}

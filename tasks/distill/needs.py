"""What distillation takes: its student and checkpoints on disk, and the step that it repeats."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm.checkpoint import read_description
from lm.hugging_face.load import config_of
from lm.inputs.hashed import folders_in
from lm.model import Decoder, ModelConfig
from lm.model_folder import is_hugging_face
from lm.sampler import rows_for
from lm.training.batch import Batch, Metrics
from tasks.about.problem_lengths import last_of, longest_prompt
from tasks.about.prompts import model_with_prompt
from tasks.about.sections import Sections
from tasks.about.training import checkpoint_bytes, lower, model_bytes
from tasks.about.work import Sampling, StageNeeds, Step, Work
from tasks.core.config import ConfigError
from tasks.distill.answers import Demonstrations, Student
from tasks.distill.step import ComparedRows, WeightedMatch, loss_of
from tasks.distill.students import Given
from tasks.distill.teachers import Past, Stored

SPLITS = ("sft", "rl")  # of the problems that the teacher answers, as tasks/distill/stage.py takes them


def texts_of(sections: Sections, smallest: bool = False) -> int:
    """Sequences of text in a step: as many as are asked for, and as a step of the plan has, or its smallest one."""
    plan = sections["curriculum"]
    a_step = plan.tokens_per_step // sections.plan_length() // (2**plan.ramp.doublings if smallest else 1)
    a_step = max(1, a_step)
    return min(sections["distill"].corpus_sequences, a_step)


def shape(sections: Sections) -> ModelConfig:
    """The student's."""
    student = sections["distill"].student
    return (
        sections.shape(student.model) if isinstance(student, Given) else student.shape(sections.start_shape("distill"))
    )


def needs(sections: Sections) -> StageNeeds:
    """Raises ConfigError where no prompt fits the context."""
    student = shape(sections)
    past = isinstance(sections["distill"].teachers, Past)
    # a checkpoint is written beside the one before it, and holds the student's past
    scratch = checkpoint_bytes(student) + (2 * model_bytes(student) if past else 0.0)
    return StageNeeds(model_bytes(student), scratch, work(sections, student))


def work(sections: Sections, student: ModelConfig) -> Work:
    """A step of B answers of T predictions, sampled from whoever writes them, and some sequences of text."""
    config, teaches = sections["distill"], sections.start_shape("distill")
    prompt = longest_prompt("distill", config, SPLITS, teaches)
    texts, text_length = texts_of(sections), sections.plan_length()
    B, T = config.batch, prompt + config.max_new_tokens - 1

    labels = config.teachers.label_weight(config.labels, 0, config.steps)
    stored = isinstance(config.teachers, Stored)

    def taught_by(teachers: list[Decoder], others: list[Decoder]) -> list[Decoder]:
        return others if config.teachers.follows else [*teachers, *others]

    def step() -> Step:
        teachers = [] if stored else [model_with_prompt(teaches, sections, config.model).requires_grad_(False)]
        model = Decoder(student)
        matching = None if stored else config.match.open(model, teachers[0], 0)
        match = WeightedMatch(matching, matching.weight(0)) if matching else None
        others = [Decoder(each).requires_grad_(False) for each in beside(config.teachers, student)]
        answers_BT = torch.zeros((B, T), dtype=torch.int64)
        texts_BT = torch.zeros((texts, text_length), dtype=torch.int64)

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            there = slice(max(rows.start - B, 0), max(rows.stop - B, 0))
            top_k = config.divergence.top_k if stored else 0
            answers = compared(answers_BT[rows], config.max_new_tokens, top_k)
            text = compared(texts_BT[there], text_length, top_k)
            return loss_of(model, taught_by(teachers, others), config.divergence, labels, answers, text, match)

        batch = Batch(B + texts, max(T, text_length), B * T + texts * text_length, loss)
        shares = {} if stored else {model: by_student(config.answers), teachers[0]: by_teacher(config.answers)}
        sampling = tuple(
            Sampling(writer, B, rows_for(writer, B), B, prompt, config.max_new_tokens, 1 / share)
            for writer, share in shares.items()
            if share
        )
        reading = taught_by(teachers, others)
        if labels == 1:  # nothing diverges from them
            reading = reading[:1] if match else []
        lasts = getattr(config.match, "until", 0)
        part = min(1.0, lasts / config.steps) if reading and labels == 1 and lasts else 1.0
        return Step(model, batch, sampling, frozen=tuple(reading), frozen_part=part)

    tokens = config.steps * (B * config.max_new_tokens + texts * text_length)
    less = lower(sections, config.model, "distill.max_new_tokens", "distill.batch or distill.max_new_tokens")
    return Work(config, student, config.steps, tokens, step, less)


def by_student(answers: Any) -> float:
    """The share of steps whose answers the student writes."""
    return answers.share if isinstance(answers, Student) else 0.0


def by_teacher(answers: Any) -> float:
    """The share of steps whose answers the teacher writes."""
    return 0.0 if isinstance(answers, Demonstrations) else 1 - by_student(answers)


def compared(ids_RT: Tensor, counted: int, top_k: int = 0) -> ComparedRows:
    """Rows of which the last `counted` predictions count; top_k: as many likeliest tokens of each are stored, 0: none are."""
    R, T = ids_RT.shape
    places_K = last_of(R, T, counted)
    K = len(places_K)
    stored = (torch.zeros((K, top_k), dtype=torch.int64), torch.zeros((K, top_k + 1))) if top_k else None
    return ComparedRows(ids_RT, places_K, ids_RT.flatten()[places_K], 1.0, stored)


def beside(teachers: Any, student: ModelConfig) -> list[ModelConfig]:
    """Shapes of the models that are held beside the one that is distilled: those of other folders, or the student's past."""
    if isinstance(teachers, Past):
        return [student]
    if not teachers.folder or not teachers.folder.is_dir():
        return []
    return [shape_in(folder) for folder in folders_in(teachers.folder)]


def shape_in(folder: Path) -> ModelConfig:
    """Shape of the model in a folder. Raises ConfigError naming the file."""
    try:
        return config_of(folder) if is_hugging_face(folder) else ModelConfig(**read_description(folder)["model"])
    except ValueError as error:
        raise ConfigError(f"distill.teachers: {error}") from None

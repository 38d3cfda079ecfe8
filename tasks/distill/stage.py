"""Distillation: a smaller student learns the distribution of its teacher, over answers and over plain text."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from lm import problems
from lm.checkpoint import device, save_model
from lm.config import Seed, choice
from lm.distilling.batches import DistillationBatches, problems_that_fit
from lm.model_folder import read_model
from lm.training.batch import Batch, Metrics
from lm.training.data.conversations import Conversation, collate, places
from lm.training.data.plan import Plan
from lm.training.loop import train
from lm.training.recipe import Recipe
from lm.transfer import to_device
from tasks.core.config import ConfigError, StartModel
from tasks.core.log import Log
from tasks.core.tokens import check_tokens
from tasks.distill import answers as kinds_of_answers
from tasks.distill import divergences, matches, students
from tasks.distill import teachers as kinds_of_teachers
from tasks.distill.answers import Teacher
from tasks.distill.answers.base import AnswerRequest
from tasks.distill.matches import Unmatched
from tasks.distill.step import ComparedRows, WeightedMatch, loss_of, refuse_caps
from tasks.distill.students import Sliced, Whole
from tasks.distill.students.base import StudentInputs
from tasks.distill.teachers import Alone
from tasks.distill.teachers.base import FixedTeachers
from tasks.distill.teachers.stored import FromDisk, Targets, answers_of, check_text


class DistillConfig(Recipe):
    model: StartModel
    student: choice(students)
    teachers: choice(kinds_of_teachers) = Alone()
    beside: Literal["teachers", "lessons"] = Field(
        "teachers", description="the folder of data/ that teachers read; follows from their name"
    )
    steps: int = Field(200, gt=0)
    batch: int = Field(48, gt=0, description="problems a step")
    answers: choice(kinds_of_answers) = Teacher()
    corpus_sequences: int = Field(4, ge=0, description="sequences of pretraining text a step")
    max_new_tokens: int = Field(32, gt=0)
    divergence: choice(divergences)
    match: choice(matches) = Unmatched()
    labels: float = Field(
        0.0,
        ge=0,
        le=1,
        description="weight of the negative log-likelihood of the tokens that are there; 1 - labels is the divergence's",
    )
    learner: str = Field(
        "", description="what makes the model that the student begins as; follows from student, or model"
    )
    problems: choice(problems)
    seed: Seed

    @property
    def rows_apart(self) -> str:
        return (
            "the student writes answers beside others than those that they are learned beside" * self.answers.by_student
        )

    @model_validator(mode="after")
    def _follows_no_trials(self) -> "DistillConfig":
        if self.teachers.follows and self.has_trials:
            raise ValueError(
                f"teachers: {self.teachers.name} copies the student, and trials of rates are taken back: set another schedule"
            )
        return self


def beside_prompt(config: DistillConfig) -> tuple[str, str, str] | None:
    """(key, what is wrong, what to do) where a teacher that carries a soft prompt does not go with a student or a match."""
    if isinstance(config.student, Whole | Sliced):
        why = "the teacher carries a soft prompt, and this student would be the model without it"
        return "distill.student", why, "take layers, fresh or given"
    if not isinstance(config.match, Unmatched):
        why = "the teacher's layers see its soft prompt, and the student's do not"
        return "distill.match", why, "take unmatched"
    return None


def run(config: DistillConfig, data: Path, log: Log) -> dict[str, float]:
    """data/<model>, the teacher, data/curriculum and data/tokenize -> data/distill.

    Loss: divergence (nats a token) over answers to problems, plus the same over pretraining text, each its own mean.
    """
    teacher, tokenizer = read_model(data / config.model)
    if teacher.prompt is not None and (said := beside_prompt(config)):
        raise ConfigError(f"{said[0]}: {said[1]}: {said[2]}")
    if config.corpus_sequences:
        check_tokens(f"distill.model: {config.model}", tokenizer, data / "tokenize")
    plan = Plan(data / "curriculum", data / "tokenize")
    examples = (e for split in ("sft", "rl") for e in config.problems.examples(split))
    problems = problems_that_fit(
        "distill.max_new_tokens",
        tokenizer,
        examples,
        teacher.config.context,
        config.max_new_tokens,
        config.answers.fits,
    )
    asking = DistillationBatches(problems, plan, config.batch, config.corpus_sequences, config.seed)
    teacher.to(device()).requires_grad_(False)
    beside = StudentInputs(
        data / config.learner, tokenizer, lambda: asking.first_batches(teacher.config.context, tokenizer.pad_id)
    )
    student = config.student.build(teacher, config.seed, beside)
    student.to(device())
    refuse_caps(teacher, student)
    taught = config.teachers.open(teacher, tokenizer, data, config)
    if isinstance(taught, FromDisk):  # nothing is asked of it
        teacher.cpu()
    matching = config.match.open(student, teacher, config.seed)
    if matching and isinstance(taught, FromDisk):
        raise ConfigError("distill.match: stored targets know nothing of the teacher's inside: take unmatched")

    def compared(
        ids_RN: Tensor, mask_RT: Tensor, denominator: int, stored: tuple[Tensor, ...] | None = None
    ) -> ComparedRows:
        """Where the mask, which is in host memory, is not 0."""
        places_K, *theirs = to_device([places(mask_RT), *(stored or ())], device())
        targets_K = ids_RN[:, 1:].flatten()[places_K]
        return ComparedRows(ids_RN[:, :-1], places_K, targets_K, denominator, tuple(theirs) if stored else None)

    def answers_at(step: int, chosen: list[Conversation]) -> list[list[int]]:
        def sample(by_student: bool, prompts: list[list[int]], temperature: float) -> list[list[int]]:
            model = student if by_student else teacher
            found = asking.sample_answers(step, model, prompts, config.max_new_tokens, temperature, tokenizer.end_id)
            model.train(by_student)
            return found

        coin = np.random.Generator(np.random.Philox(key=[config.seed, (1 << 42) + step])).random()
        prompts, shown = [each.prompt for each in chosen], [each.completion for each in chosen]
        return config.answers(AnswerRequest(prompts, shown, coin, sample))

    def batch_at(step: int) -> Batch:
        match = WeightedMatch(matching, matching.weight(step)) if matching else None
        models, labels = (
            taught.models_at(step, student),
            config.teachers.label_weight(config.labels, step, config.steps),
        )
        chosen, text, rows = asking.problems_at(step), asking.text_at(step), taught.stored(step)
        written = answers_at(step, chosen) if rows is None else answers_of(step, rows, chosen)
        conversations = [Conversation(one.prompt, ids) for one, ids in zip(chosen, written, strict=True)]
        answers = collate(conversations, tokenizer.pad_id)
        mask_BT = answers[1]  # on the host, where places are found without waiting for a GPU
        content: tuple[Tensor, ...] = (*answers, text[:, :-1])
        counted, answered = int(mask_BT.sum()), len(chosen)
        kept: list[Targets] = []
        if rows is not None:
            check_text(step, rows[answered:], text)
            kept = [Targets(some, rows[0].top_TK.shape[1]) for some in (rows[:answered], rows[answered:])]
            content += tuple(part for each in kept for part in (each.top_TK, each.logp_TC))
        ids_BN, text_BN = to_device((answers[0], text), device())
        everywhere_BT = torch.ones(content[2].shape)

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            """Rows count the answers first, then the sequences of text."""
            here, there = rows, slice(max(rows.start - answered, 0), max(rows.stop - answered, 0))
            of_answers, of_text = (kept[0].of(here), kept[1].of(there)) if kept else (None, None)
            answers = compared(ids_BN[here], mask_BT[here], counted, of_answers)
            everywhere = everywhere_BT.numel()
            text = (
                compared(text_BN[there], everywhere_BT[there], everywhere, of_text) if config.corpus_sequences else None
            )
            return loss_of(student, models, config.divergence, labels, answers, text, match)

        length = max(mask_BT.shape[1], everywhere_BT.shape[1])
        return Batch(answered + len(text_BN), length, counted + everywhere_BT.numel(), loss, content=content, **hearing)

    hearing: Any = (
        {"traces": lambda: matching.sums, "after": matching.update_patience}
        if matching and matching.needs_gradient_sums
        else {}
    )
    others = taught.models_at(0, student) if isinstance(taught, FixedTeachers) else [teacher]
    targets = [taught.digest()] if isinstance(taught, FromDisk) else []
    trunks = log.trunks(
        config,
        config.steps,
        [student, *others],
        [tokenizer.to_json(), *targets],
        lambda step: [
            [[each.prompt, each.completion] for each in asking.problems_at(step)],
            asking.text_at(step)[:, :-1],
            config.teachers.label_weight(0.0, step, config.steps),
        ],
    )
    train(student, config, config.steps, batch_at, log, trunks, [taught, *([matching] if matching else [])])
    if matching:
        matching.remove_projection()
    save_model(data / "distill", student, tokenizer)
    share = student.num_parameters() / teacher.num_parameters()
    return {"steps": config.steps, "parameters": student.num_parameters(), "parameter_fraction": share}

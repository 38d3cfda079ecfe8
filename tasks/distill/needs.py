"""What distillation takes: its student and checkpoints on disk, and the step that it repeats."""

import torch
from torch import Tensor

from lm.model import Decoder, ModelConfig
from lm.sampler import rows_for
from lm.training.batch import Batch, Metrics
from tasks.about.problem_lengths import last_of, longest_prompt
from tasks.about.sections import Sections
from tasks.about.training import checkpoint_bytes, lower, model_bytes
from tasks.about.work import Sampling, StageNeeds, Step, Work
from tasks.distill.stage import student_of, taken_layers
from tasks.distill.step import Compared, loss_of

SPLITS = ("sft", "rl")  # of the problems that the teacher answers, as tasks/distill/stage.py takes them


def texts_of(sections: Sections) -> int:
    """Sequences of text in a step: as many as are asked for, and as a step of the plan has."""
    a_step = max(1, sections["curriculum"].tokens_per_step // sections.plan_length())
    return min(sections["distill"].corpus_sequences, a_step)


def shape(sections: Sections) -> ModelConfig:
    """The teacher's, with the layers of the student."""
    teacher = sections.start_shape("distill")
    return teacher.of_layers(taken_layers(teacher.layers, sections["distill"].student_layers))


def needs(sections: Sections) -> StageNeeds:
    """Raises ConfigError where no prompt fits the context."""
    student = shape(sections)
    return StageNeeds(model_bytes(student), checkpoint_bytes(student), work(sections, student))


def work(sections: Sections, student: ModelConfig) -> Work:
    """A step of B answers of T predictions, sampled from the teacher, and some sequences of text."""
    config, teaches = sections["distill"], sections.start_shape("distill")
    prompt = longest_prompt("distill", config, SPLITS, teaches)
    texts, text_length = texts_of(sections), sections.plan_length()
    B, T = config.batch, prompt + config.max_new_tokens - 1

    def step() -> Step:
        teacher = Decoder(teaches)
        model = student_of(teacher, config.student_layers)
        teacher.requires_grad_(False)
        answers_BT = torch.zeros((B, T), dtype=torch.int64)
        texts_BT = torch.zeros((texts, text_length), dtype=torch.int64)

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            there = slice(max(rows.start - B, 0), max(rows.stop - B, 0))
            answers = compared(answers_BT[rows], config.max_new_tokens)
            return loss_of(model, teacher, config.divergence, answers, compared(texts_BT[there], text_length))

        batch = Batch(B + texts, max(T, text_length), B * T + texts * text_length, loss)
        sampling = Sampling(teacher, B, rows_for(teacher, B), B, prompt, config.max_new_tokens)
        return Step(model, batch, sampling, frozen=(teacher,))

    tokens = config.steps * (B * config.max_new_tokens + texts * text_length)
    less = lower(sections, config.model, "distill.max_new_tokens", "distill.batch or distill.max_new_tokens")
    return Work(config, student, config.steps, tokens, step, less)


def compared(ids_RT: Tensor, counted: int) -> Compared:
    """Rows of which the last `counted` predictions count."""
    R, T = ids_RT.shape
    return Compared(ids_RT, last_of(R, T, counted), 1.0)

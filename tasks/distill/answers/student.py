"""Answers by the student, so that it is corrected where it errs: on-policy distillation, GKD, Agarwal et al. 2024
(arXiv:2306.13649), algorithm 1."""

from typing import ClassVar, Literal

from pydantic import Field

from lm.temperature import Temperature
from tasks.distill.answers.base import AnswerRequest, Answers


class Student(Answers):
    """Each step's answers are all the student's with the chance `share`, else the teacher's, at one temperature; no gradient
    flows through what was drawn. Differs from the paper: steps that are not the student's have answers that the teacher writes
    now, where the paper has a fixed set, its own or labelled."""

    name: Literal["student"] = "student"
    by_student: ClassVar[bool] = True
    share: float = Field(1.0, gt=0, le=1, description="of steps whose answers the student writes: the paper's lambda")
    temperature: Temperature = 1.0

    def __call__(self, asked: AnswerRequest) -> list[list[int]]:
        return asked.sample(asked.coin < self.share, asked.prompts, self.temperature)

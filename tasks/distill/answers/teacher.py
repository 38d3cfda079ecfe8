"""Answers by the teacher: what it would say itself. At temperature 0 with `labels: 1` this is sequence-level distillation, Kim
and Rush 2016 (arXiv:1606.07947), of greedy answers in the place of those of a beam."""

from typing import Literal

from lm.temperature import Temperature
from tasks.distill.answers.base import AnswerRequest, Answers


class Teacher(Answers):
    name: Literal["teacher"] = "teacher"
    temperature: Temperature = 1.0

    def __call__(self, asked: AnswerRequest) -> list[list[int]]:
        return asked.sample(False, asked.prompts, self.temperature)

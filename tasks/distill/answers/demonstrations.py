"""Answers of the problem set, which cost no sampling: supervised distillation, as in GKD (arXiv:2306.13649), section 2."""

from typing import Literal

from tasks.distill.answers.base import AnswerRequest, Answers


class Demonstrations(Answers):
    """Problems whose demonstration is longer than max_new_tokens are left out."""

    name: Literal["demonstrations"] = "demonstrations"

    def fits(self, demonstration: list[int], longest: int) -> bool:
        return len(demonstration) <= longest

    def __call__(self, asked: AnswerRequest) -> list[list[int]]:
        return asked.demonstrations

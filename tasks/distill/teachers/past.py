"""The student's own past: self-knowledge distillation with progressive refinement of targets, Kim et al. 2021
(arXiv:2006.12000)."""

import copy
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import ConfigError
from lm.decoding import is_sharded
from lm.model import Decoder
from lm.tokenizer import Tokenizer
from tasks.distill.teachers.base import Teachers, TeacherState


class Earlier(TeacherState):
    """The student as it was when `every` steps last came to an end."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._held: Decoder | None = None
        self._waiting: dict[str, Tensor] = {}

    def models_at(self, step: int, student: Decoder) -> list[Decoder]:
        """Raises ConfigError where the student's weights are shared out among ranks."""
        if self._held is None or step % self._every == 0:
            if is_sharded(student):
                raise ConfigError(
                    "distill.teachers: past copies the student, which TOKENMILL_PARALLEL shares out: set it to exact or ddp"
                )
            self._held = copy.deepcopy(student).requires_grad_(False).eval()
            # as it is read whether the run was killed or not
            self._held.compile_blocks(False)
            self._held.recompute = False
            if self._waiting and step % self._every:
                with torch.no_grad():
                    for name, held in tensors_of(self._held).items():
                        held.copy_(self._waiting[name])
            self._waiting = {}
        return [self._held]

    def state(self) -> dict[str, Tensor]:
        return {name: x.detach() for name, x in tensors_of(self._held).items()} if self._held else self._waiting

    def load(self, state: dict[str, Tensor]) -> None:
        self._held, self._waiting = None, {name: x.clone() for name, x in state.items()}


def tensors_of(model: Decoder) -> dict[str, Tensor]:
    """Weights and buffers: how a matrix is held may keep what it reads in one."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


class Past(Teachers):
    """The targets of a step are a mixture of the written tokens and of what the model said as it was `every` steps ago at most;
    its own part grows from 0 as the run goes on, linearly, to 1 - labels at the end (equation 6). For student: whole, with
    answers: demonstrations.

    Differs from the paper: a divergence to the past beside the loss of labels, which for forward_kl at temperature 1 has the
    gradient of the paper's soft targets; the past is of so many steps, not of an epoch."""

    name: Literal["past"] = "past"
    follows: ClassVar[bool] = True
    every: int = Field(
        50,
        gt=1,
        description="steps for which what teaches stays as it is; in the first of them it is the student itself",
    )

    def open(self, start: Decoder, tokenizer: Tokenizer, data: Path = Path("data"), asked: Any = None) -> TeacherState:
        return Earlier(self.every)

    def label_weight(self, labels: float, step: int, steps: int) -> float:
        return 1 - (1 - labels) * (step + 1) / steps

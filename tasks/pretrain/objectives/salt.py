"""Predict the next token, and in the first steps what a smaller model says of it, too: small model aided large model training,
SALT, Rawat et al. 2024, A Little Help Goes a Long Way (arXiv:2410.18779), algorithm 1.

In the first stage, `until` so much of the run, the loss of a token is (1 - w) CE(token) + w H(p, q): H is the cross-entropy of
the model's distribution q from that of the small model, p, which is trained already and stays as it is. In the second stage,
and wherever w is 0, it is the loss of next_token, and the small model is not asked: a weak teacher helps early, and would hold
a larger model back later. w falls to 0 at once, as in the paper, or over the last steps of the stage, evenly (`linear`), or so
that w / (1 - w) falls evenly (`linear_ratio`), the two others that it tries.

The small model is the one in checkpoint.folder, of the corpus' tokens; it reads what the model reads, documents apart where
they are. p is at a temperature of its own, q is not.

Differs from the paper: causal models of text in place of UL2's mixture of denoisers; sequences are those of the plan in both
stages, where SALT_DS takes such as the small model finds hard but learnable in the first one.

Letters: B batch, T predictions a sequence, R all of them laid end to end; D, E widths of the two models, V
vocabulary, C a chunk.
"""

from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from kernels.linear_cross_entropy import IGNORED, linear_cross_entropy
from kernels.linear_divergence import linear_divergence
from lm.config import ConfigError
from lm.model import Decoder, ModelConfig
from lm.model_folder import read_bare
from lm.temperature import Divisor
from lm.tokenizer import Tokenizer
from lm.training.batch import Metrics
from tasks.pretrain.growths.base import steps_in
from tasks.pretrain.objectives.base import FIRST, LossPosition, Objective
from tasks.pretrain.starts.base import without_padding

SLOT = "pretrain.objective"


def weight_of(full: float, left: int, decay: int, ratio: bool) -> float:
    """The small model's weight with so many steps of its stage left, this one among them: `full` until the last `decay` of
    them, in which it, or with `ratio` what it is over its complement, falls evenly towards 0, where it is with none left."""
    part = min(1.0, max(0, left) / (decay + 1))
    if not ratio or part == 1:
        return part * full
    odds = part * full / (1 - full)
    return odds / (1 + odds)


def soft_cross_entropy(logits_CV: Tensor, theirs_CV: Tensor, temperature: float) -> Tensor:
    """nats_C: the cross-entropy of the softmax of logits from that of theirs at the temperature."""
    return -(F.softmax(theirs_CV / temperature, dim=-1) * F.log_softmax(logits_CV, dim=-1)).sum(-1)


def check(small: ModelConfig, shape: ModelConfig, length: int) -> None:
    """Raises ConfigError where a model of this shape cannot be helped by one of the small shape in sequences of so many
    predictions."""
    if not small.causal:
        raise ConfigError(f"{SLOT}: the small model is not causal: salt needs one that predicts the next token")
    if small.context < length:
        raise ConfigError(
            f"{SLOT}: the small model reads {small.context} tokens, and the plan's sequences have {length}"
        )
    if small.logit_softcap is not None or shape.logit_softcap is not None:
        raise ConfigError(f"{SLOT}: salt does not know logit_softcap, which the small model or this one has")


class Salt(Objective):
    name: Literal["salt"] = "salt"
    weight: float = Field(0.667, gt=0, le=1, description="of the small model's part of the loss; the paper's is 0.667")
    until: float = Field(
        0.173,
        gt=0,
        le=1,
        description="part of all steps in which the small model helps; the paper has 36 of 208 thousand",
    )
    end: Literal["step", "linear", "linear_ratio"] = Field("step", description="how its weight falls to 0")
    decay: float = Field(
        0.02, gt=0, lt=1, description="part of all steps in which it falls, the last of those; step: none"
    )
    temperature: Divisor = Field(1.0, description="of the small model's distribution alone; below 1: sharper")

    @model_validator(mode="after")
    def _falls_in_time(self) -> "Salt":
        if self.end != "step" and self.decay > self.until:
            raise ValueError(
                f"decay: {self.decay} of the steps is longer than what it is the end of, until: {self.until}"
            )
        if self.end == "linear_ratio" and self.weight == 1:
            raise ValueError("end: the ratio of a weight of 1 to nothing cannot fall: take linear, or a weight below 1")
        return self

    @property
    def by_run(self) -> bool:
        return True

    def at(self, step: int, steps: int) -> float:
        """The small model's weight in a step of so many."""
        decay = 0 if self.end == "step" else steps_in(self.decay, steps)
        return weight_of(self.weight, steps_in(self.until, steps) - step, decay, self.end == "linear_ratio")

    def share_of_steps(self, steps: int) -> float:
        """Part of so many steps in which the small model is asked."""
        return steps_in(self.until, steps) / max(steps, 1)

    def with_checkpoint(self, folder: Path, tokenizer: Tokenizer, model: Decoder, length: int) -> "SaltLoss":
        """The loss with the small model in the folder, on the model's device. Raises ValueError naming the file that cannot be
        used, other tokens than the corpus', or a small model that does not fit."""
        small, theirs = read_bare(folder)
        if tokenizer != theirs:
            raise ConfigError(
                f"{SLOT}: the corpus is in other tokens than those of the model in {folder}: train that on this corpus, or "
                "use tokenize.method hugging_face, which takes the tokens from there"
            )
        small = without_padding(small, model.config.vocab_size)
        check(small.config, model.config, length)
        return SaltLoss(self, small.to(model.embedding.weight.device))


class SaltLoss:
    """SALT's loss with its small model, which is not trained, and which no checkpoint holds."""

    def __init__(self, method: Salt, small: Decoder) -> None:
        self._method, self.small = method, small.requires_grad_(False).eval()

    def __call__(
        self,
        model: Decoder,
        tokens_BN: Tensor,
        bounds: Tensor | None,
        denominator: int,
        counted_BT: Tensor | None = None,
        each_BT: Tensor | None = None,
        at: LossPosition = FIRST,
    ) -> tuple[Tensor, Metrics]:
        """The sum over all predictions of the sequences that count, divided by `denominator`, in nats; as metrics its two
        parts, each before its weight, of the small model's only where it is asked. All else as the next token's objective has
        it."""
        weight = self._method.at(at.step, at.steps)
        x_RD = model.hidden(tokens_BN[:, :-1], bounds=bounds).flatten(0, 1)
        targets_BT = tokens_BN[:, 1:]
        if counted_BT is not None:
            targets_BT = targets_BT.where(counted_BT, IGNORED)
        loss, _ = linear_cross_entropy(
            x_RD,
            model.head_weight,
            targets_BT.flatten(),
            denominator=denominator,
            each_T=None if each_BT is None else each_BT.view(-1),
        )
        metrics: Metrics = {"cross_entropy": loss.detach()}
        if not weight:
            return loss, metrics
        with torch.no_grad():
            theirs_RE = self.small.hidden(tokens_BN[:, :-1], bounds=bounds).flatten(0, 1)
        soft = linear_divergence(
            x_RD,
            model.head_weight,
            theirs_RE,
            self.small.head_weight,
            partial(soft_cross_entropy, temperature=self._method.temperature),
            denominator,
            weights_T=None if counted_BT is None else counted_BT.flatten(),
        )
        return (1 - weight) * loss + weight * soft, {**metrics, "soft_cross_entropy": soft.detach()}

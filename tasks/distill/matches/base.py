"""What every match gives: a share of the loss from one layer of the student and one of its teacher, as long as it lasts.

Letters: K places that are compared, D width of the student, E width of the teacher.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lm.config import Config, ConfigError
from lm.distributed import world_size
from lm.linears.base import Roles
from lm.model import HEADS, Decoder
from lm.training.components import Component
from tasks.distill.matches.layer_pass import LayerPass, capture_layer

# (student's layer, teacher's layer, places_K, the student's features in the teacher's width) -> a number of each place
Distance = Callable[[LayerPass, LayerPass, Tensor, Tensor], Tensor]


class Projection(nn.Linear):
    """x_KD -> x_KE, trained with the student and left behind; orthogonal at first."""

    roles: ClassVar[Roles] = {"weight": "output"}

    def __init__(self, width: int, theirs: int, seed: int) -> None:
        super().__init__(width, theirs, bias=False)
        nn.init.orthogonal_(self.weight, generator=torch.Generator().manual_seed(seed))


def layer_at(depth: float, layers: int) -> int:
    """Number of the layer behind which this part of all layers lies: the last for 1."""
    return max(0, math.ceil(round(depth * layers, 9)) - 1)


class Matching(Component):
    """A match that has begun. The student carries its projection, which is trained and kept in checkpoints as its own weights
    are, until it is taken.

    The cosine of disagreement is that of the two gradients by the stream that enters the student's layer: of the match, and of
    all else in the loss.
    """

    name = "match"

    def __init__(self, config: "TimedMatch", student: Decoder, teacher: Decoder, seed: int, distance: Distance) -> None:
        self._config, self._distance = config, distance
        self._student_layer = layer_at(config.student_depth, student.config.layers)
        self._teacher_layer = layer_at(config.teacher_depth, teacher.config.layers)
        self._student = student
        where = student.embedding.weight.device
        made = Projection(student.config.width, teacher.config.width, seed)
        # fake tensors, of which forecasts are made, cannot be moved
        student.add_module(HEADS, made if made.weight.device == where else made.to(where))
        self._against, self._ended = 0, False
        self.sums = torch.zeros(3, device=where)

    def remove_projection(self) -> None:
        """The student carries the projection no more."""
        delattr(self._student, HEADS)

    def weight(self, step: int) -> float:
        """What the match weighs in a step; 0 once it has ended."""
        until = self._config.until
        if self._ended or (until and step >= until):
            return 0.0
        return self._config.weight * (1 - step / until if self._config.fade and until else 1)

    @property
    def alone(self) -> bool:
        """Whether it is all of the loss, as long as it lasts."""
        return self._config.alone

    def capture(self, model: Decoder) -> Any:
        """A context in which passes of this model, the student or else its teacher, are seen at its layer."""
        return capture_layer(model, self._student_layer if model is self._student else self._teacher_layer)

    def loss_share(
        self, mine: LayerPass, theirs: LayerPass, places_K: Tensor, denominator: float, weight: float
    ) -> Tensor:
        """The sum of distances at these places over the denominator; weight: by which it will count."""
        projected_KE = nn.functional.linear(mine.features(places_K), self._projection.float())
        found = self._distance(mine, theirs, places_K, projected_KE).sum() / denominator
        entered = mine.entered_BTD
        if self._config.patience and torch.is_grad_enabled() and entered.requires_grad:
            (own,) = torch.autograd.grad(weight * found, entered, retain_graph=True)
            entered.register_hook(lambda both: self._hear(own.float(), both.float()))
        return found

    @property
    def idle(self) -> Tensor:
        """0, with a gradient of 0 for the projection: so that it has one in every step, as all weights of a run."""
        return 0.0 * self._projection.sum()

    @property
    def _projection(self) -> Tensor:
        return self._student.get_submodule(HEADS).weight  # type: ignore[return-value]

    def _hear(self, own: Tensor, both: Tensor) -> None:
        rest = both - own
        self.sums += torch.stack([(own * rest).sum(), own.square().sum(), rest.square().sum()])

    def begin(self, step: int) -> None:
        self.sums.zero_()

    def update_patience(self, sums: Tensor) -> None:
        """The sums of a step, in host memory: product and squares of both gradients."""
        product, own, rest = sums.tolist()
        if own == 0 or rest == 0:
            return
        self._against = self._against + 1 if product < 0 else 0
        self._ended |= self._against >= self._config.patience

    @property
    def needs_gradient_sums(self) -> bool:
        """Whether `sums` are to be told to `update_patience`."""
        return self._config.patience > 0

    def state(self) -> dict[str, Tensor]:
        return {"against": torch.tensor(self._against), "ended": torch.tensor(self._ended)}

    def load(self, state: dict[str, Tensor]) -> None:
        self._against, self._ended = int(state["against"]), bool(state["ended"])


class Matches(Config):
    def open(self, student: Decoder, teacher: Decoder, seed: int) -> Matching | None:
        """What a run matches; None for nothing. Raises ConfigError for models that it cannot match."""
        raise NotImplementedError


class TimedMatch(Matches):
    """A match that has a weight and an end."""

    weight: float = Field(1.0, gt=0, description="beside divergence and labels")
    until: int = Field(100, ge=0, description="steps; 0: to the end")
    fade: bool = Field(False, description="the weight falls to 0 over these steps, linearly")
    alone: bool = Field(False, description="it is all of the loss until it ends")
    patience: int = Field(
        0,
        ge=0,
        description="it ends after so many steps in a row in which its gradient is against the rest's; 0: never",
    )
    student_depth: float = Field(
        0.5, gt=0, le=1, description="of its layers, the one behind which it is compared; 1: the last"
    )
    teacher_depth: float = Field(0.5, gt=0, le=1)

    def check(self) -> None:
        """Raises ConfigError for what cannot go together."""
        if self.patience and world_size() > 1:
            raise ConfigError(
                "distill.match.patience: ranks see a part of a gradient each: end it by until, or set TOKENMILL_RANKS=1"
            )
        if self.patience and self.alone:
            raise ConfigError(
                "distill.match.patience: a match that is all of the loss is against nothing: set one of them"
            )

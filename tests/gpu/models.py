"""A small model on a device, what it learns from, and a run of it, as a stage would train it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm.averages import Last
from lm.model import Decoder
from lm.optimizers import AdamW
from lm.sampler import generate
from lm.schedules import Wsd
from lm.training.batch import Batch, Metrics
from lm.training.loop import train
from lm.training.recipe import Recipe
from tasks.core.log import Log
from tasks.pretrain.objectives import NextToken
from tests.lm.models import toy_model

CPU = torch.device("cpu")
VOCABULARY, LENGTH = 512, 32
BOUNDS = torch.tensor([0, 7, 32, 50, 64, 96])  # of 3 rows


def model_on(device: torch.device, **more: Any) -> Decoder:
    shape = {"vocab_size": VOCABULARY, "width": 64, "heads": 4, "kv_heads": 2, "ffn_width": 128, "context": 64, **more}
    return toy_model(seed=1, **shape).to(device)


def ids_of(step: int, rows: int = 4) -> Tensor:
    return torch.randint(VOCABULARY, (rows, LENGTH + 1), generator=torch.Generator().manual_seed(step))


@dataclass
class Recorder(Log):
    """Keeps the points of the curve; asks to stop after so many steps."""

    scratch: Path | None = None
    stop_after: int | None = None
    points: dict[int, dict[str, float]] = field(default_factory=dict)

    def __call__(self, step: int, **values: float) -> None:
        self.points[step] = values
        self.stopping = self.stop_after is not None and len(self.points) >= self.stop_after


def recipe(optimizer: Any = AdamW, **more: Any) -> Recipe:
    given: dict[str, Any] = {"schedule": Wsd(), "average": Last(), "clip": 1.0, "compile": "off", **more}
    return Recipe(optimizer=optimizer(), **given)


def batches(
    model: Decoder, bounds: Tensor | None = None, rows: int = 4, sampled: bool = False
) -> Callable[[int], Batch]:
    """The pretraining loss of random tokens; `sampled`: after the model has written something, as RL does."""
    device = model.embedding.weight.device

    def batch_at(step: int) -> Batch:
        if sampled:
            generate(model, [[1, 2, 3], [4]], 4, 1.0, VOCABULARY - 1, step)
        content = ids_of(step, rows)
        ids = content.to(device)

        def loss(part: slice) -> tuple[Tensor, Metrics]:
            first, end = part.start * LENGTH, part.stop * LENGTH
            some = None if bounds is None else bounds[(bounds >= first) & (bounds <= end)] - first
            each = torch.empty(ids[part, 1:].shape, device=device)
            return NextToken(z_loss=1e-4)(model, ids[part], some, rows * LENGTH, None, each)

        return Batch(rows, LENGTH, rows * LENGTH, loss, content=(content,))

    return batch_at


def fit(device: torch.device, how: Recipe, log: Log, steps: int = 6, **more: Any) -> dict[str, Tensor]:
    """The weights after a run, on the CPU."""
    model = model_on(device)
    train(model, how, steps, batches(model, **more), log)
    return {name: weight.cpu() for name, weight in model.state_dict().items()}


def relative(got: Tensor, wanted: Tensor) -> float:
    """|got - wanted| / |wanted|."""
    got, wanted = got.detach().double().cpu(), wanted.detach().double().cpu()
    return float((got - wanted).norm() / wanted.norm())

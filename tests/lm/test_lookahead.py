"""Weights that look ahead: beside the authors' trajectory worked by hand, stopped and gone on with, and what is refused."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lm.averages import Last
from lm.config import ConfigError
from lm.linears.base import roles_of
from lm.model import Decoder
from lm.optimizers import AdamW, Lion, ScheduleFree
from lm.schedules import Cosine
from lm.training.batch import Batch
from lm.training.lookahead import Lookahead
from lm.training.looking_ahead import LookingAhead
from lm.training.loop import train
from lm.training.parallel.base import Parallel
from lm.training.recipe import Recipe
from tasks.core.log import Stopped
from tests.lm.made_parts import ids_of
from tests.lm.models import toy_model
from tests.lm.test_training import Recorder, recipe

STEPS = 8


class Alone:
    """What a component asks of the ranks: one process with one weight."""

    can_move = True
    must_move = Parallel.must_move

    def __init__(self, weight: Tensor) -> None:
        self.weight = torch.nn.Parameter(weight)
        self.optimizer = Lion().build([("blocks.0.up.weight", self.weight)], {"blocks.0.up.weight": "matrix"})
        self.told = 0

    def trainable_parameters(self) -> dict[str, Tensor]:
        return {"w": self.weight}

    def moved(self) -> None:
        self.told += 1


def test_the_trajectory_of_the_authors_code() -> None:
    """x += b f e; x -= lr grad(x); e = 0.9 e + 0.1 (x - x before): in the order of their loop, with a schedule f and a window."""
    a, rate, steps = torch.linspace(0.5, 3.0, 5).diag(), 0.1, 20
    factor = lambda step: 1 - step / 40  # noqa: E731
    x, before, mean, points = torch.zeros(5), torch.zeros(5), torch.zeros(5), []
    for step in range(steps):
        x = x + (0.3 * factor(step) if 3 <= step < 12 else 0.0) * mean
        points.append(x.clone())
        x = x - rate * (a @ x - 1.0)
        mean, before = 0.9 * mean + 0.1 * (x - before), x
    ranks = Alone(torch.zeros(5))
    component = LookingAhead(Lookahead(share=0.3, memory=0.9, begins=3, ends=12), ranks, factor)
    for step in range(steps):
        component.begin(step)
        torch.testing.assert_close(ranks.weight.detach(), points[step])
        with torch.no_grad():
            ranks.weight -= rate * (a @ ranks.weight - 1.0)
        component.after(step, 0.0, 0.0)
    torch.testing.assert_close(ranks.weight.detach(), x)
    assert ranks.told == 9  # ranks that keep what they gathered are told of each move


def fit(how: Recipe, scratch: Path, after: int | None = None) -> Decoder:
    model = toy_model(seed=1)

    def batch_at(step: int) -> Batch:
        ids = ids_of(4, 9, seed=step)

        def loss(rows: slice) -> tuple[Tensor, dict[str, Any]]:
            logits = model(ids[rows, :-1]).flatten(0, 1)
            return torch.nn.functional.cross_entropy(logits, ids[rows, 1:].flatten(), reduction="sum") / 32, {}

        return Batch(4, 8, 32, loss)

    train(model, how, STEPS, batch_at, Recorder(scratch, after))
    return model


def how(optimizer: Any = AdamW, **given: Any) -> Recipe:
    return recipe(optimizer=optimizer, lookahead=Lookahead(**given))


def test_a_run_that_was_stopped_goes_on_with_its_mean(tmp_path: Path) -> None:
    whole = fit(how(share=0.5, memory=0.8), tmp_path / "whole").state_dict()
    for _ in range(2):
        with pytest.raises(Stopped):
            fit(how(share=0.5, memory=0.8), tmp_path / "cut", 3)
    resumed = fit(how(share=0.5, memory=0.8), tmp_path / "cut").state_dict()
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


def test_every_parameter_is_seen_in_the_weights_and_none_by_default(tmp_path: Path) -> None:
    tries = [
        {},
        {"share": 0.5},
        {"share": 0.7},
        {"share": 0.5, "memory": 0.8},
        {"share": 0.5, "begins": 4},
        {"share": 0.5, "ends": 4},
    ]
    found = [fit(how(**given), tmp_path / str(n)).norm.weight.tolist() for n, given in enumerate(tries)]
    assert len({tuple(weights) for weights in found}) == len(tries)
    plain = fit(Recipe(optimizer=AdamW(), schedule=Cosine(), average=Last(), clip=1.0), tmp_path / "plain")
    assert plain.norm.weight.tolist() == found[0]


def test_where_weights_cannot_be_moved_it_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="^lookahead: the optimizer makes the model's weights at the end of a run[^\n]*$"
    ):
        fit(how(ScheduleFree, share=0.5), tmp_path)
    ranks = Alone(torch.zeros(2))
    ranks.can_move = False
    with pytest.raises(ConfigError, match="^lookahead: ZeRO keeps weights in pieces[^\n]*$"):
        LookingAhead(Lookahead(share=0.5), ranks, partial(Cosine(), total_steps=8))
    assert LookingAhead(Lookahead(), ranks, partial(Cosine(), total_steps=8)).state() == {}
    assert roles_of(toy_model())

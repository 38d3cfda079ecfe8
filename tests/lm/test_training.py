"""The loop: resumed runs equal whole ones to the bit, and batches find their place."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm import averages, optimizers
from lm.averages import Last
from lm.config import methods_of
from lm.optimizers import AdamW
from lm.schedules import Cosine
from lm.training.conversations import Conversation, chosen, collate, token_logps
from lm.training.loop import train
from lm.training.plan import Plan
from lm.training.recipe import Recipe
from tasks.core.log import Log, Stopped
from tests.lm.models import toy_model


class Recorder(Log):
    """A log that keeps its points and asks to stop after a number of steps."""

    def __init__(self, scratch: Path, stop_after: int | None = None) -> None:
        self.scratch, self.stop_after, self.points = scratch, stop_after, {}

    def __call__(self, step: int, **values: float) -> None:
        self.points[step] = values
        self.stopping = self.stop_after is not None and len(self.points) >= self.stop_after

    def rewind(self, step: int) -> None:
        self.points = {s: v for s, v in self.points.items() if s < step}


def recipe(optimizer=AdamW, average=Last) -> Recipe:
    return Recipe(optimizer=optimizer(), schedule=Cosine(), average=average(), clip=1.0)


def fit(how: Recipe, log: Log, steps: int = 9):
    model = toy_model(seed=1)

    def loss_at(step: int):
        ids = torch.randint(0, 261, (4, 17), generator=torch.Generator().manual_seed(step))
        return -token_logps(model, ids).mean(), {}

    train(model, how, steps, loss_at, log, lambda step: 64)
    return model.state_dict()


RECIPES = [recipe(optimizer=m) for m in methods_of(optimizers)] + [recipe(average=m) for m in methods_of(averages)]


@pytest.mark.parametrize("how", RECIPES, ids=lambda how: f"{how.optimizer.name}-{how.average.name}")
def test_stopped_and_resumed_equals_whole(how: Recipe, tmp_path: Path) -> None:
    whole_log = Recorder(tmp_path / "whole")
    whole = fit(how, whole_log)
    points: dict = {}
    for stop_after in (2, 3, None):  # stops after 2 steps, after 3 more, then ends
        log = Recorder(tmp_path / "cut", stop_after)
        if stop_after is None:
            resumed = fit(how, log)
        else:
            with pytest.raises(Stopped):
                fit(how, log)
        points |= log.points
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert points == whole_log.points


def test_a_loss_that_is_not_finite_stops_training(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="step 0"):
        train(toy_model(), recipe(), 2, lambda s: (torch.tensor(float("nan")), {}), Log(), lambda s: 1)


def test_collate_masks_the_completion_alone() -> None:
    ids, mask = collate([Conversation([5, 6], [7, 4]), Conversation([8], [9, 9, 9, 4])], pad_id=1)
    assert ids.tolist() == [[5, 6, 7, 4, 1], [8, 9, 9, 9, 4]]
    assert mask.tolist() == [[0, 1, 1, 0], [1, 1, 1, 1]]


def test_padding_reaches_no_loss() -> None:
    model = toy_model()
    short, long = Conversation([5, 6], [7, 4]), Conversation([8], [9, 9, 9, 4])
    both, mask = collate([short, long], 1)
    alone, _ = collate([short], 1)
    with torch.no_grad():
        torch.testing.assert_close(
            token_logps(model, both)[0, :3] * mask[0, :3], token_logps(model, alone)[0] * mask[0, :3], rtol=0, atol=1e-5
        )


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 17), st.integers(0, 5))
def test_every_pass_chooses_each_member_once(population: int, batch: int, seed: int) -> None:
    picks = [i for step in range(3 * population) for i in chosen(step, batch, population, seed)]
    for start in range(0, len(picks) - population + 1, population):
        assert sorted(picks[start : start + population]) == list(range(population))


def test_plan_gives_the_planned_tokens(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.arange(100, dtype=np.uint16))
    rows = [(0, 0, 10, 3), (0, 0, 50, 2), (0, 1, 90, 5), (1, 0, 0, 9)]
    columns = dict(zip(("step", "sequence", "start", "length"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "plan.parquet")
    plan = Plan(tmp_path, tmp_path)
    assert plan.steps == 2 and plan.tokens_at(0) == 10
    assert plan.batch(0).tolist() == [[10, 11, 12, 50, 51], [90, 91, 92, 93, 94]]
    assert plan.batch(1).tolist() == [list(range(9))]

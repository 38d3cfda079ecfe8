"""Sliding windows that grow: by hand, as models of smaller windows, killed and gone on with, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lm.averages import Last
from lm.model import Cache, Decoder
from lm.optimizers import AdamW
from lm.schedules import Cosine
from lm.training.batch import Batch, Metrics
from lm.training.loop import train
from lm.training.recipe import Recipe
from tasks.core.config import ConfigError, load
from tasks.core.log import Log, Stopped
from tasks.pretrain import stage
from tasks.pretrain.window_warmup import Windows, WindowWarmup
from tests.curriculum.test_stage import made
from tests.lm.models import toy_model
from tests.lm.test_training import Recorder
from tests.project import TINY

WINDOW, STEPS = 8, 6
PATTERN = [{"mixer": {"name": "sliding_window", "window": WINDOW}}, {}]
IDS = torch.randint(0, 261, (2, 24), generator=torch.Generator().manual_seed(0))


def windowed(window: int = WINDOW) -> Decoder:
    return toy_model(seed=1, pattern=[{"mixer": {"name": "sliding_window", "window": window}}, {}])


def test_shares_by_hand() -> None:
    warmup = WindowWarmup(steps=4, begins=0.2)
    assert [warmup.share(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert WindowWarmup().share(0) == 1.0


@torch.no_grad()
@pytest.mark.parametrize(("share", "window"), [(0.01, 1), (0.5, 4), (0.7, 5), (1.0, 8)])
def test_a_narrowed_model_is_one_of_smaller_windows_and_comes_back(share: float, window: int) -> None:
    """Layers that see all go on doing so; what the model says of itself stays."""
    model, bounds = windowed(), torch.tensor([0, 5, 24, 33, 48])
    whole, said = model(IDS), model.config.described()
    model.narrow_windows(share)
    assert torch.equal(model(IDS), windowed(window)(IDS))
    assert torch.equal(model(IDS, bounds=bounds), windowed(window)(IDS, bounds=bounds))
    assert torch.equal(model(IDS), whole) == (share == 1.0)
    cache = Cache(model.config, 2, 24)
    steps = torch.cat([model(IDS[:, step : step + 1], cache) for step in range(24)], 1)
    torch.testing.assert_close(steps, model(IDS), rtol=1e-4, atol=1e-5)
    assert model.config.described() == said
    model.narrow_windows(1.0)
    assert torch.equal(model(IDS), whole)


def fit(scratch: Path, warmup: WindowWarmup, after: int | None = None) -> tuple[Decoder, list[int]]:
    """A trained model, and the window of its first layer in each step."""
    model, seen = windowed(), []

    def batch_at(step: int) -> Batch:
        ids = torch.randint(0, 261, (4, 25), generator=torch.Generator().manual_seed(step))
        seen.append(model._mixers[0].window)

        def loss(rows: slice) -> tuple[torch.Tensor, Metrics]:
            logits = model(ids[rows, :-1]).flatten(0, 1)
            return torch.nn.functional.cross_entropy(logits, ids[rows, 1:].flatten(), reduction="sum") / 96, {}

        return Batch(4, 24, 96, loss)

    recipe = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Last())
    train(model, recipe, STEPS, batch_at, Recorder(scratch, after), components=[Windows(model, warmup)])
    return model, seen


def test_windows_of_a_run_and_of_one_that_was_stopped(tmp_path: Path) -> None:
    warmup = WindowWarmup(steps=4, begins=0.25)
    whole, seen = fit(tmp_path / "whole", warmup)
    assert seen == [2, 3, 5, 6, 8, 8]
    assert whole._mixers == windowed()._mixers
    with pytest.raises(Stopped):
        fit(tmp_path / "cut", warmup, 2)
    resumed, rest = fit(tmp_path / "cut", warmup)
    assert rest == [5, 6, 8, 8]
    plain, _ = fit(tmp_path / "plain", WindowWarmup())
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name])
    assert not torch.equal(whole.embedding.weight, plain.embedding.weight)


def test_what_cannot_grow_is_refused() -> None:
    WindowWarmup(steps=5).check(windowed().config, 6)
    WindowWarmup().check(toy_model().config, 1)
    with pytest.raises(ConfigError, match=r"pretrain.window_warmup.steps: no layer of the model has a window"):
        WindowWarmup(steps=5).check(toy_model().config, 6)
    with pytest.raises(ConfigError, match=r"pretrain.window_warmup.steps: 6 is no less than the 6 steps"):
        WindowWarmup(steps=6).check(windowed().config, 6)
    passing = toy_model(pattern=[PATTERN[0], {**PATTERN[0], "depths": {"share": 0.5}}]).config
    WindowWarmup().check(passing, 6)
    with pytest.raises(
        ConfigError, match=r"pretrain.window_warmup.steps: the window of layer 1 cannot grow, as tokens go"
    ):
        WindowWarmup(steps=5).check(passing, 6)
    WindowWarmup(steps=5).check(toy_model(pattern=[PATTERN[0], {"depths": {"share": 0.5}}]).config, 6)
    for begins in (0.0, 1.0):
        with pytest.raises(ValueError, match="begins"):
            WindowWarmup(begins=begins)


@pytest.mark.parametrize(("steps", "refused"), [(0, None), (4, None), (10, "10 is no less than the 10 steps")])
def test_the_stage_saves_the_model_with_whole_windows(steps: int, refused: str | None, tmp_path: Path) -> None:
    made(tmp_path)
    pq.write_table(pa.table({"id": ["9"], "source": ["web"], "text": ["abc"]}), tmp_path / "tokenize/held_out.parquet")
    (tmp_path / "pretrain").mkdir()
    section: dict[str, Any] = {**TINY["pretrain"], "checkpoint": TINY["checkpoint"], "seed": 0}
    section |= {"model": {**section["model"], "pattern": PATTERN}, "window_warmup": {"steps": steps}}
    config = load("pretrain", stage.PretrainConfig, {"pretrain": section})
    if refused:
        with pytest.raises(ConfigError, match=re.escape(refused)):
            stage.run(config, tmp_path, Log())
        return
    stage.run(config, tmp_path, Log())
    assert '"window": 8' in (tmp_path / "pretrain/config.json").read_text()

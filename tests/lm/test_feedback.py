"""Schedules with feedback: what every one of them must do, their formulas beside other libraries, and runs that take trials back."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import curve_fit
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern
from torch import Tensor

from lm import schedules
from lm.averages import Ema, Last
from lm.config import Config, ConfigError, methods_of
from lm.linears import LoRA
from lm.optimizers import AdamW, Muon, OneBitAdam, ScheduleFree, Soap
from lm.schedules import Accelat, AutoLRS, Cosine, OneCycle
from lm.schedules import auto_lrs as room
from lm.schedules.accelat import flattened
from lm.schedules.auto_lrs import Block, blocks_of, forecast, next_place, posterior
from lm.schedules.feedback import Feedback
from lm.training.batch import Batch
from lm.training.components import Component
from lm.training.fast_forward import FastForward
from lm.training.lookahead import Lookahead
from lm.training.loop import train
from lm.training.parallel.exact import Exact
from lm.training.rates import Rates
from lm.training.recipe import Recipe
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.test_training import Recorder, batches

EVERY = [method for method in methods_of(schedules) if issubclass(method, Feedback)]
each = pytest.mark.parametrize("method", EVERY, ids=lambda method: method.__name__)
STEPS = 50
SMALL: dict[type[Config], dict[str, Any]] = {
    AutoLRS: {"blocks": 2, "growth": 1.0, "trials": 3, "warmup_fraction": 0.1},
    Accelat: {"windows": 8, "least_gain": 0.02},
}


def losses_of(factors: list[float]) -> float:
    """A loss that falls faster with the rate, and is higher by it."""
    return 5 + math.exp(-sum(factors) / 10) + factors[-1] / 10


@each
@settings(deadline=None, max_examples=20, derandomize=True)
@given(total=st.integers(1, 300), warmup=st.floats(0, 0.7))
def test_factors_rise_and_then_stay_in_their_range(method: type[Feedback], total: int, warmup: float) -> None:
    follower, factors = method(warmup_fraction=warmup).follower(total), []
    for step in range(total):
        factors.append(follower.factor(step))
        assert not (follower.begins_trials(step) and not follower.is_trial(step))
        follower.observe(step, losses_of(factors))
    assert all(0 < factor <= 1 for factor in factors)
    rises = int(warmup * total)
    assert all(a < b for a, b in zip(factors[:rises], factors[1:rises], strict=False))
    assert not follower.is_trial(total - 1)  # nothing is taken back that would be the run's last


@each
def test_what_a_follower_keeps_is_all_that_it_goes_by(method: type[Feedback]) -> None:
    schedule = method(**SMALL[method])
    one, other, factors = schedule.follower(STEPS), schedule.follower(STEPS), []
    for step in range(STEPS):
        other = schedule.follower(STEPS)
        other.load(one.state())
        factors.append(one.factor(step))
        assert other.factor(step) == factors[-1] and other.is_trial(step) == one.is_trial(step)
        loss = losses_of(factors)
        one.observe(step, loss)
        other.observe(step, loss)
        assert other.state() == one.state()
    assert len(set(factors[5:])) > 1


def test_accelat_by_hand() -> None:
    """Two steps of warm-up, windows of 2: means 4, 3.9 (a gain of 2.5%), 3.5, 3.5, 3.6: dropped after the second, 4th and 5th."""
    assert flattened(4.0, 3.9, 0.1) and not flattened(4.0, 3.5, 0.1) and flattened(4.0, 5.0, 0.0)
    follower = Accelat(warmup_fraction=1 / 6 + 1e-9, windows=5, least_gain=0.1, drop=0.5, final_fraction=0.2).follower(
        12
    )
    found = []
    for step, loss in enumerate([9, 9, 4.5, 3.5, 3.9, 3.9, 3, 4, 3, 4, 3.6, 3.6]):
        found.append(follower.factor(step))
        follower.observe(step, loss)
    assert found == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25])
    assert follower.factor(12) == 0.2


def test_a_forecast_is_that_of_the_exponential() -> None:
    decay = float(np.geomspace(1 / 40, 2.0, 32)[15])
    curve = lambda t: 3 * np.exp(-decay * t) + 1.5  # noqa: E731
    assert forecast(curve(np.arange(8)), 40) == pytest.approx(curve(40))
    assert forecast(5 - curve(np.arange(8)), 40) == pytest.approx(5 - curve(40))


def test_a_forecast_through_noise_is_scipys() -> None:
    steps, generator = np.arange(40), np.random.default_rng(0)
    losses = 3 * np.exp(-0.1 * steps) + 1.5 + 0.02 * generator.standard_normal(40)
    (a, r, c), _ = curve_fit(lambda t, a, r, c: a * np.exp(-r * t) + c, steps, losses, p0=(1, 0.1, 1))
    assert forecast(losses, 400) == pytest.approx(a * math.exp(-r * 400) + c, rel=2e-3)


@pytest.mark.parametrize("seen", [1, 2, 6])
def test_the_gaussian_process_is_sklearns(seen: int) -> None:
    """At the length and the noise of the grid that its likelihood prefers."""
    generator = np.random.default_rng(seen)
    places, at = generator.random(seen), np.linspace(0, 1, 9)
    values = 4 + np.sin(6 * places)
    spread = values.std() or 1.0
    best: tuple[float, Any] = (-math.inf, None)
    for length in room.LENGTHS:
        for noise in room.NOISES:
            process = GaussianProcessRegressor(Matern(length, nu=2.5), alpha=noise, optimizer=None)
            process.fit(places[:, None], (values - values.mean()) / spread)
            if process.log_marginal_likelihood_value_ > best[0]:
                best = process.log_marginal_likelihood_value_, process.predict(at[:, None], return_std=True)
    mean, deviation = posterior(places, values, at)
    np.testing.assert_allclose(mean, values.mean() + spread * best[1][0], rtol=1e-8)
    np.testing.assert_allclose(deviation, spread * best[1][1], rtol=1e-6)


def test_what_is_tried_next() -> None:
    assert next_place((), (), 1000.0) == 0.5
    assert next_place((0.5,), (1.0,), 1000.0) == 0.0  # as far away as 1, and the first
    assert next_place((0.5, 0.0), (1.0, 1.0), 1000.0) == 1.0
    values = tuple((place - 0.25) ** 2 for place in (0.0, 0.5, 1.0, 0.75))
    assert 0 < next_place((0.0, 0.5, 1.0, 0.75), values, 0.0) < 0.5  # towards the least
    tried: tuple[float, ...] = ()
    for _ in range(12):
        tried += (next_place(tried, tuple(0.0 for _ in tried), 0.0),)
    assert len(set(tried)) == 12


def test_blocks_by_hand() -> None:
    # 10 + 20 + 40 + 80 + 80: trials take half of each, ten of 4 steps where there is room
    assert blocks_of(5, 235, 5, 2.0, 10)[3:] == [Block(75, 115, 155, 4), Block(155, 195, 235, 4)]
    assert blocks_of(0, 32, 2, 1.0, 3) == [Block(0, 8, 16, 4), Block(16, 24, 32, 4)]
    assert blocks_of(0, 15, 1, 2.0, 10) == [Block(0, 0, 15, 0)] and Block(16, 24, 32, 4).horizon == 8
    lengths = [block.ends - block.begins for block in blocks_of(0, 1000 * 31, 6, 2.0, 10)]
    assert lengths == [1000, 2000, 4000, 8000, 8000, 8000]


def test_the_best_of_the_rates_is_trained_with() -> None:
    """A run whose loss falls fastest, to the lowest level, with a rate of a tenth."""
    follower = AutoLRS(blocks=1, warmup_fraction=0.0, trials=9).follower(400)
    tried: dict[float, list[float]] = {}
    for step in range(400):
        factor = follower.factor(step)
        tried.setdefault(factor, []).append(step)
        within = len(tried[factor]) - 1
        follower.observe(step, 1 + math.log10(factor / 0.1) ** 2 + math.exp(-0.2 * within))
    assert len(tried) == 9
    assert [factor for factor, steps in tried.items() if 399 in steps] == [
        min(tried, key=lambda f: abs(math.log10(f / 0.1)))
    ]


class Weights(Component):
    """Keeps the weights that each step begins with."""

    name = "weights"

    def __init__(self, model: torch.nn.Module) -> None:
        self._model, self.at = model, list[Tensor]()

    def begin(self, step: int) -> None:
        self.at.append(torch.cat([weight.detach().flatten().clone() for weight in self._model.parameters()]))


class Given(Config):
    """Factors as they were in another run."""

    factors: list[float]

    def __call__(self, step: int, total_steps: int) -> float:
        return self.factors[step]


def recipe_of(schedule: Any, optimizer: Any = AdamW, **more: Any) -> Recipe:
    return Recipe(optimizer=optimizer(), schedule=schedule, average=Last(), clip=1.0, **more)


def run(how: Recipe, log: Recorder, steps: int = STEPS, which: Callable[[int], int] = lambda step: step) -> Weights:
    model = toy_model(seed=1)
    seen, made = Weights(model), batches(model)

    def batch_at(step: int) -> Batch:
        return made(which(step))

    train(model, how, steps, batch_at, log, components=[seen])
    seen.begin(steps)
    return seen


@pytest.mark.parametrize("optimizer", [AdamW, Soap])
def test_a_run_ends_as_one_without_its_trials(optimizer: Any, tmp_path: Path) -> None:
    """To the bit: weights and the optimizer's state are what they were, whatever the trials did."""
    method = AutoLRS(**SMALL[AutoLRS])
    log, follower = Recorder(tmp_path / "whole"), method.follower(STEPS)
    whole = run(recipe_of(method, optimizer), log)
    blocks = blocks_of(5, STEPS, 2, 1.0, 3)
    assert all(block.trial for block in blocks)
    for block in blocks:
        for step in range(block.begins, block.trained + 1, block.trial):
            assert torch.equal(whole.at[step], whole.at[block.begins])
        assert not torch.equal(whole.at[block.begins + 1], whole.at[block.begins])
    factors = []
    for step in range(STEPS):
        factors.append(follower.factor(step))
        follower.observe(step, log.points[step]["loss"])
    kept = [step for step in range(STEPS) if not follower.is_trial(step)]
    given = Given(factors=[factors[step] for step in kept])
    how = recipe_of(Cosine(), optimizer).model_copy(update={"schedule": given})
    alone = run(how, Recorder(tmp_path / "alone"), len(kept), lambda step: kept[step])
    assert torch.equal(alone.at[-1], whole.at[-1])
    tried = {factors[step] for step in range(STEPS) if follower.is_trial(step)}
    assert len(tried) >= 2 and factors[-1] in tried


@each
@pytest.mark.parametrize("after", [1, 7])
def test_a_run_that_was_stopped_goes_on_in_the_middle_of_a_trial(
    method: type[Feedback], after: int, tmp_path: Path
) -> None:
    how = recipe_of(method(**SMALL[method]))
    log = Recorder(tmp_path / "whole")
    whole = run(how, log)
    for _ in range((STEPS - 1) // after):
        with pytest.raises(Stopped):
            run(how, Recorder(tmp_path / "cut", after))
    last = Recorder(tmp_path / "cut")
    assert torch.equal(run(how, last).at[-1], whole.at[-1])
    assert all(last.points[step] == log.points[step] for step in last.points)


def test_every_schedule_gives_other_weights(tmp_path: Path) -> None:
    tries: list[Any] = [
        *(method(**SMALL[method]) for method in EVERY),
        OneCycle(),
        OneCycle(peak_momentum=0.5),
        Cosine(),
    ]
    ends = [run(recipe_of(schedule), Recorder(tmp_path / str(n)), 30).at[-1] for n, schedule in enumerate(tries)]
    assert len({end.numpy().tobytes() for end in ends}) == len(tries)


def test_momentum_is_that_of_the_schedule_in_every_group() -> None:
    """Of Muon's matrices and of AdamW's rest, each from its own: 0.95 and 0.9 to 0.85 at the peak, and rates beside them."""
    ranks = Exact(1)
    groups = ranks.distribute(toy_model(), Muon()).param_groups
    schedule = OneCycle(warmup_fraction=0.5, initial_fraction=0.1, peak_momentum=0.85)
    rates = Rates(schedule, 10, ranks)
    for step in (0, 5, 7, 9):
        rates.begin(step)
        share = max((schedule(step, 10) - 0.1) / 0.9, 0.0)
        for group in groups:
            assert group["lr"] == pytest.approx(group["base_lr"] * schedule(step, 10))
            assert group.get("momentum", 0.95) == pytest.approx(0.95 - 0.1 * share if "momentum" in group else 0.95)
            if "adamw_beta1" in group:
                assert group["adamw_beta1"] == pytest.approx(0.9 - 0.05 * share)
    assert any("momentum" in group for group in groups) and any("adamw_beta1" in group for group in groups)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"average": Ema()}, "average: {name: last}"),
        ({"linear": LoRA()}, "linear: {name: dense}"),
        ({"fast_forward": FastForward(every=2)}, "fast_forward.every: 0"),
        ({"lookahead": Lookahead(share=0.5)}, "lookahead.share: 0"),
        ({"skip_sigmas": 6.0}, "skip_sigmas: 0"),
    ],
)
def test_what_trials_would_leave_behind_is_refused(more: dict[str, Any], said: str) -> None:
    settings = {"optimizer": AdamW(), "schedule": AutoLRS(), "average": Last(), **more}
    with pytest.raises(ValidationError, match=f"takes trials back, and with them only weights: set {said}"):
        Recipe(**settings)


def test_looking_ahead_goes_by_the_factor_that_is_heard(tmp_path: Path) -> None:
    schedule = Accelat(**SMALL[Accelat])
    ends = [
        run(recipe_of(schedule, lookahead=Lookahead(share=share)), Recorder(tmp_path / str(share)), 30).at[-1]
        for share in (0.0, 0.5)
    ]
    assert not torch.equal(*ends)


@pytest.mark.parametrize(
    ("schedule", "optimizer", "said"),
    [
        (AutoLRS(), ScheduleFree, "^schedule: the optimizer makes the model's weights at the end of a run[^\n]*$"),
        (AutoLRS(), OneBitAdam, "^schedule: the optimizer keeps what differs from rank to rank[^\n]*$"),
        (
            OneCycle(peak_momentum=0.5),
            ScheduleFree,
            "^schedule.peak_momentum: the optimizer's weights hang on its beta1[^\n]*$",
        ),
        (
            OneCycle(peak_momentum=0.95),
            AdamW,
            r"^schedule.peak_momentum: 0\.95 is above the optimizer's own 0\.9[^\n]*$",
        ),
    ],
)
def test_optimizers_that_cannot_are_refused_in_a_line(schedule: Any, optimizer: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        run(recipe_of(schedule, optimizer), Recorder(tmp_path))

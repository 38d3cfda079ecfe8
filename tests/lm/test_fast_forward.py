"""Fast Forward: which update is repeated, how often, and that a run which was stopped repeats the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lm.config import ConfigError
from lm.linears import LoRA
from lm.model import Decoder
from lm.optimizers import AdamW, DropMuon, Muon, ScheduleFree
from lm.training.batch import Batch, Metrics, evaluate
from lm.training.fast_forward import FastForward, furthest
from lm.training.forwarding import Forwarding
from lm.training.loop import train
from lm.training.parallel.exact import Exact
from lm.training.recipe import Recipe
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.test_linears import batch_of
from tests.lm.test_training import Recorder, batches, recipe

STEPS = 9
FORWARD = FastForward(every=2, most=4)


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=9), st.integers(1, 8))
def test_repeats_go_on_while_the_loss_falls_and_no_further(losses: list[float], most: int) -> None:
    asked: list[int] = []

    def loss_at(repeats: int) -> float:
        asked.append(repeats)
        return losses[min(repeats, len(losses) - 1)]

    found = furthest(loss_at, most)
    assert asked == list(range(min(found + 1, most) + 1))  # a forward pass each
    falls = [loss_at(n + 1) < loss_at(n) for n in range(most)]
    assert found == (falls.index(False) if False in falls else most)


def fit(
    how: Recipe, log: Recorder, batch_at: Callable[[Decoder], Any] = batches, steps: int = STEPS
) -> dict[str, Tensor]:
    model = toy_model(seed=1)
    train(model, how, steps, batch_at(model), log)
    return model.state_dict()


def same(model: Decoder) -> Callable[[int], Batch]:
    """A batch that every step learns from, so that each update lowers its loss."""
    return lambda step: batch_of(model)


@pytest.mark.parametrize("optimizer", [AdamW, Muon, DropMuon])
@pytest.mark.parametrize("held", [{}, {"linear": LoRA()}], ids=["dense", "lora"])
def test_stopped_and_resumed_equals_whole(optimizer: Any, held: dict[str, Any], tmp_path: Path) -> None:
    """Before an update that is repeated, between it and its stage, and behind that."""
    how = recipe(optimizer=optimizer, fast_forward=FORWARD, **held)
    log = Recorder(tmp_path / "whole")
    whole = fit(how, log, same)
    assert {step for step, values in log.points.items() if "forwarded" in values} == {2, 4, 6, 8}
    assert sum(values.get("forwarded", 0) for values in log.points.values()) > 0
    points: dict[int, Any] = {}
    for stop_after in (1, 1, 1, 2, None):
        cut = Recorder(tmp_path / "cut", stop_after)
        if stop_after:
            with pytest.raises(Stopped):
                fit(how, cut, same)
        else:
            resumed = fit(how, cut, same)
        points |= cut.points
    assert points == log.points
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


def test_a_stage_changes_the_weights_and_lowers_the_loss(tmp_path: Path) -> None:
    logs = [Recorder(tmp_path / name) for name in ("with", "without", "once")]
    forwards = [FORWARD, FastForward(), FastForward(every=2, most=1)]
    found = [fit(recipe(linear=LoRA(), fast_forward=each), log, same) for each, log in zip(forwards, logs, strict=True)]
    names = [name for name in found[0] if name.endswith("query.weight")]
    assert all(not torch.equal(found[a][name], found[b][name]) for name in names for a, b in ((0, 1), (0, 2), (1, 2)))
    losses = [[values["loss"] for values in log.points.values()] for log in logs]
    assert losses[0][:2] == losses[1][:2] and losses[0][-1] < losses[2][-1] < losses[1][-1]
    assert not any("forwarded" in values for values in logs[1].points.values())


def test_no_weight_moves_where_the_loss_does_not_fall(tmp_path: Path) -> None:
    """To the bit: W + 0 times the update is W."""

    def steady(model: Decoder) -> Callable[[int], Batch]:
        def batch_at(step: int) -> Batch:
            whole = batches(model)(step)

            def loss(rows: slice) -> tuple[Tensor, Metrics]:
                share, metrics = whole.loss(rows)
                return (share if torch.is_grad_enabled() else torch.ones(())), metrics

            return Batch(whole.rows, whole.length, whole.tokens, loss)

        return batch_at

    log = Recorder(tmp_path / "with")
    weights = fit(recipe(fast_forward=FastForward(every=1)), log, steady)
    plain = fit(recipe(), Recorder(tmp_path / "without"), steady)
    assert [values.get("forwarded") for values in log.points.values()] == [None, *[0.0] * (STEPS - 1)]
    assert all(torch.equal(weight, plain[name]) for name, weight in weights.items())


def forwarding(method: FastForward, optimizer: Any = None) -> tuple[Decoder, Forwarding, Exact]:
    model, parallel = toy_model(seed=1), Exact(1)
    parallel.distribute(model, optimizer or AdamW())
    return model, Forwarding(method, parallel), parallel


def valley(model: Decoder, direction: Tensor, bottom: float) -> Batch:
    """A loss that is least where the first norm is so many times a direction away from 1."""

    def loss(rows: slice) -> tuple[Tensor, Metrics]:
        along = ((model.norm.weight - 1) * direction).sum() / direction.square().sum()
        return (along - bottom).square() * (rows.stop - rows.start) / 4, {}

    return Batch(4, 12, 48, loss)


@pytest.mark.parametrize(("bottom", "repeats"), [(3.4, 2), (4.6, 4), (1.2, 0), (-5.0, 0), (99.0, 6)])
def test_the_update_is_repeated_to_the_bottom_of_the_valley(bottom: float, repeats: int) -> None:
    """From 1, one update of `direction` leads to 1, 2, ... of it: 3.4 is nearest to 3, two repeats of it."""
    model, stages, _ = forwarding(FastForward(every=3, most=6))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    direction = torch.linspace(0.5, 1, 32)
    stages.begin(2)
    stages.before_update()
    with torch.no_grad():
        model.norm.weight.add_(direction)
    stages.begin(3)
    assert stages.stage(valley(model, direction, bottom), 10_000) == {"forwarded": float(repeats)}
    torch.testing.assert_close(model.norm.weight, 1 + (1 + repeats) * direction)
    assert all(torch.equal(w, before[n]) for n, w in model.named_parameters() if n != "norm.weight")
    assert stages.state() == {} and stages.stage(valley(model, direction, bottom), 10_000) == {}


def test_a_stage_comes_after_so_many_steps_and_not_where_the_step_was_skipped() -> None:
    assert [step for step in range(10) if FastForward(every=3).due(step)] == [3, 6, 9]
    assert not any(FastForward().due(step) for step in range(10))
    model, stages, _ = forwarding(FastForward(every=3))
    for step in (0, 1):
        stages.begin(step)
        stages.before_update()
        assert stages.state() == {}
    stages.begin(2)  # the guard refuses its update, and says nothing
    stages.begin(3)
    assert stages.stage(valley(model, torch.ones(32), 9.0), 10_000) == {}
    stages.begin(5)
    stages.before_update()
    assert stages.state().keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("positions", [0, 12, 10_000])
def test_the_loss_of_a_batch_is_that_of_its_backward_however_it_is_cut(shards: int, positions: int) -> None:
    model, parallel = toy_model(seed=1), Exact(shards)
    parallel.distribute(model, AdamW())
    found = parallel.evaluate(batch_of(model), positions)
    assert not found.requires_grad and all(weight.grad is None for weight in model.parameters())
    torch.testing.assert_close(found, evaluate(batch_of(model), 10_000), rtol=1e-6, atol=0)
    torch.testing.assert_close(found, parallel.backward(batch_of(model), positions)[0], rtol=1e-6, atol=0)


def test_weights_have_gradients_after_a_stage_in_bf16(tmp_path: Path) -> None:
    """Casts that autocast kept of a pass without gradients would have none."""
    log = Recorder(tmp_path)
    fit(recipe(precision="bf16", fast_forward=FastForward(every=1, most=2)), log, same)
    plain = Recorder(tmp_path / "plain")
    fit(recipe(precision="bf16"), plain, same)
    norms = [[values["gradient_norm"] for values in each.points.values()] for each in (log, plain)]
    assert all(0.3 < mine / other < 3 for mine, other in zip(*norms, strict=True))


def test_what_cannot_be_moved_is_refused() -> None:
    with pytest.raises(ConfigError, match="fast_forward: the optimizer makes the model's weights at the end of a run"):
        forwarding(FORWARD, ScheduleFree())
    model, _, parallel = forwarding(FastForward(), ScheduleFree())  # without stages nothing is asked
    parallel.can_move = False
    Forwarding(FastForward(), parallel)
    with pytest.raises(
        ConfigError, match="fast_forward: ZeRO keeps weights in pieces of its own: set TOKENMILL_PARALLEL"
    ):
        Forwarding(FORWARD, parallel)
    assert model

"""The speed of training is that of its steps: without compiling, and without what was between two of them."""

import pytest
import torch

from lm.training.batch import Batch
from lm.training.flops import flops_per_token
from lm.training.throughput import COMPILING, WINDOW, Throughput
from tests.lm.models import toy_model

MODEL = toy_model()


class Clock:
    """Seconds, as they are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("lm.training.throughput.time.monotonic", lambda: self.now)
        self.speed = Throughput(MODEL, torch.device("cpu"))

    def step(self, seconds: float, tokens: int = 64, pause: float = 0.0) -> float:
        self.now += seconds
        self.speed.add(Batch(4, 16, tokens, lambda rows: (torch.zeros(()), {})))
        self.now += pause
        self.speed.skip_pause()
        return self.speed.tokens_per_second


def test_first_steps_and_checkpoints_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert clock.step(64.0) == 1.0  # compiles, and is all there is
    assert [clock.step(seconds) for seconds in (32.0, 2.0)] == [2.0, 32.0]
    assert clock.step(2.0, pause=1000.0) == 32.0
    assert clock.step(4.0) == pytest.approx(3 * 64 / 8)
    found = clock.speed.run_stats()
    assert found["tokens_per_second"] == pytest.approx(24.0)
    assert found["flops_per_second"] == pytest.approx(24.0 * flops_per_token(MODEL, 16))


def test_the_speed_is_that_of_the_last_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    for _ in range(COMPILING + 50):
        clock.step(10.0)
    assert [clock.step(1.0) for _ in range(WINDOW)][-1] == pytest.approx(64.0)
    assert clock.step(1.0, tokens=0) == pytest.approx(64.0 * (WINDOW - 1) / WINDOW)


def test_flop_of_every_length_are_those_of_the_weights_that_learned_when_training_began() -> None:
    """An optimizer may hold weights back for a step; one that never learns costs less from the beginning."""
    model = toy_model()
    model.get_parameter("blocks.0.ffn.up.weight").requires_grad_(False)
    wanted = {length: flops_per_token(model, length) for length in (16, 8)}
    speed = Throughput(model, torch.device("cpu"))
    for weight in model.blocks[1].parameters():
        weight.requires_grad_(False)
    learning = [weight.requires_grad for weight in model.parameters()]
    for length in wanted:
        speed.add(Batch(4, length, 4 * length, lambda rows: (torch.zeros(()), {})))  # the first ones drop each other
        found = speed.run_stats()
        assert found["flops_per_second"] / found["tokens_per_second"] == pytest.approx(wanted[length])
        assert [weight.requires_grad for weight in model.parameters()] == learning


def test_nothing_is_told_before_the_first_step() -> None:
    assert Throughput(MODEL, torch.device("cpu")).run_stats() == {}

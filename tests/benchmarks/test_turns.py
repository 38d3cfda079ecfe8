"""Arms that live on between samples, and training loops cut into turns."""

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import steps
from benchmarks.steps import Steps
from benchmarks.subprocess_arm import peak_memory
from benchmarks.turns import Turns, persistent_arm

HERE = "tests.benchmarks.test_turns"


def counting(turns: Turns, start: int) -> None:
    """An arm that prints, as libraries do, and counts its samples."""
    while True:
        print("not an answer")
        turns({"time": 1.0}, start)
        start += 1


def ending(turns: Turns) -> None:
    """An arm that ends before its first sample."""
    sys.exit(3)


def remembering(turns: Turns, mebibytes: int) -> None:
    held = bytearray(mebibytes * 2**20)
    held[:: 2**12] = b"x" * len(held[:: 2**12])
    turns({}, None)


def test_an_arm_goes_on_from_one_sample_to_the_next() -> None:
    with persistent_arm("A", f"{HERE}:counting", start=5) as arm:
        samples = [arm.measure() for _ in range(3)]
    assert [sample.answer for sample in samples] == [5, 6, 7]
    assert samples[0].values["time"] == 1.0


def test_an_arm_that_ends_early_is_named_with_its_exit_code() -> None:
    with persistent_arm("A", f"{HERE}:ending") as arm, pytest.raises(RuntimeError, match="A: ended with exit code 3"):
        arm.measure()


def test_an_environment_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="make peers"), persistent_arm("A", f"{HERE}:counting", tmp_path / "python"):
        pass


def test_an_arm_answers_for_its_own_memory_alone() -> None:
    """Not for that of the process which starts it, although a fork hands that down."""
    held = bytearray(b"x") * (peak_memory() + 2**28)
    with persistent_arm("A", f"{HERE}:remembering", mebibytes=64) as small:
        memory = small.measure().values["peak_memory_bytes"]
    assert 2**26 < memory < len(held)


class Clock:
    """A clock that stands still but for what the test adds."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_steps_are_timed_by_turns_without_the_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, samples = Clock(), []
    monkeypatch.setattr(steps, "time", clock)

    def turns(values: dict[str, float], answer: Any) -> None:
        samples.append((values, list(answer)))
        clock.now += 1000  # the wait

    done = Steps(turns, 100, 2, lambda rate: {"doubled": 2 * rate})  # type: ignore[arg-type]
    for step in range(Steps.FIRST + 4):
        clock.now += 11.0 if step == 0 else 1.0 if step < Steps.FIRST else 0.5
        done(float(step))
    first, second, third = samples
    assert first[0] == {"tokens_per_second": 50.0, "compile_time": 9.0, "doubled": 100.0}
    assert second[0]["tokens_per_second"] == third[0]["tokens_per_second"] == 200.0
    assert first[1] == second[1] == list(range(Steps.FIRST))

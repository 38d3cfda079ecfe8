"""What checkpoints cost: the memory of the copy, and the time from one to the next."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lm.averages import Ema, Last
from lm.config import Config
from lm.training.checkpoint.checkpoints import Checkpoints
from lm.training.checkpoint.snapshot import Snapshot, within
from lm.training.checkpoint.state import bytes_at_most, tensors_of
from lm.training.parallel.exact import Exact
from tests.lm.models import toy_model
from tests.lm.test_checkpoints import ADAMW, METHODS, new_run, trained
from tests.lm.test_training import Recorder, fit, recipe


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 8600])
def test_memory_is_taken_in_pieces_that_waste_little(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch rounds what it pins up to a power of two: in one piece 8,600 bytes would take 16,384."""
    taken: list[int] = []

    def memory(size: int, pinned: bool) -> Tensor:
        taken.append(1 << (size - 1).bit_length())
        assert pinned
        return torch.empty(size, dtype=torch.uint8)

    monkeypatch.setattr("lm.training.checkpoint.snapshot.memory", memory)
    snapshot = Snapshot(piece=1024)
    snapshot.reserve(size, pinned=True)
    assert size <= sum(taken) < size + 1024 or not size
    before = list(taken)
    snapshot.reserve(size // 2, pinned=True)
    snapshot.take({"x": torch.zeros(size, dtype=torch.uint8)})
    assert taken == before, "what was reserved is enough"


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 64), st.integers(0, 100))
def test_pieces_hold_what_one_would(sizes: list[int], piece: int, before: int) -> None:
    tensors = {str(n): torch.randn(size).to([torch.float64, torch.bfloat16][n % 2]) for n, size in enumerate(sizes)}
    snapshot = Snapshot(piece)
    snapshot.take({"x": torch.zeros(before)})
    (entries, data), (wanted, whole) = snapshot.take(tensors), Snapshot().take(tensors)
    assert entries == wanted and b"".join(data) == b"".join(whole) and all(len(part) <= piece for part in data)
    for name, tensor in tensors.items():
        assert b"".join(within(entries[name], data)) == tensor.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("methods", METHODS, ids=lambda pair: "-".join(method.name for method in pair))
def test_what_a_save_will_need_is_known_beforehand(methods: tuple[Config, Config]) -> None:
    run = trained(*methods)
    kept = ("model.", "optimizer.", "average.")
    found = sum(tensor.nbytes for name, tensor in tensors_of(run).items() if name.startswith(kept))
    assert found <= bytes_at_most(new_run(*methods), 2) <= found + sum(w.nbytes for w in run.parallel.shapes.values())
    if methods[1] in (Last(), Ema()):
        assert found == bytes_at_most(new_run(*methods), 2)


class GPU(Exact):
    """As if its model were on one."""

    def _know(self, *arguments: object) -> None:
        super()._know(*arguments)
        self.model = SimpleNamespace(cos_TE=SimpleNamespace(device=torch.device("cuda")))


def test_pinned_memory_is_taken_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, bool]] = []
    monkeypatch.setattr(
        "lm.training.checkpoint.snapshot.memory", lambda *asked: taken.append(asked) or torch.empty(asked[0])
    )
    plain = new_run()
    Checkpoints(tmp_path).reserve(plain, 9)
    parallel = GPU(1)
    parallel.distribute(toy_model(), ADAMW)
    run = plain._replace(parallel=parallel)
    Checkpoints(None).reserve(run, 9)
    assert not taken, "on a CPU, and where nothing is saved, there is nothing to take"
    Checkpoints(tmp_path).reserve(run, 9)
    assert taken == [(bytes_at_most(plain, 9), True)]


class Clock:
    """Seconds that pass when they are told to, and a disk that takes some for each file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, disk: float) -> None:
        self.now, self.disk, self.go_on = 1000.0, disk, threading.Event()
        self.go_on.set()
        monkeypatch.setattr("lm.training.checkpoint.checkpoints.time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr("lm.training.checkpoint.checkpoints.write", self._write)

    def _write(self, path: Path, *what: object) -> None:
        self.go_on.wait()
        self.now += self.disk

    def due_after(self, checkpoints: Checkpoints) -> float:
        """Seconds from now until a checkpoint is due, which then has come."""
        began = self.now
        while not checkpoints.due():
            self.now += 0.5
        return self.now - began


@pytest.mark.parametrize(("disk", "every", "expected"), [(0.5, 20.0, 19.5), (1.0, 20.0, 19.0), (2.0, 20.0, 38.0), (100.0, 20.0, 1900.0), (1.0, 60.0, 59.0)])  # fmt: skip
def test_the_time_to_the_next_follows_from_what_one_takes(
    disk: float, every: float, expected: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty times the seconds of the last write, counted from where it began, and never less than asked for."""
    clock, run = Clock(monkeypatch, disk), new_run()
    checkpoints = Checkpoints(tmp_path, every=every)
    assert clock.due_after(checkpoints) == every
    for step in (1, 2):
        checkpoints.save(step, run)
        checkpoints.wait()
        assert clock.due_after(checkpoints) == expected
    clock.disk = 0.0  # it is quick again
    checkpoints.save(3, run)
    checkpoints.wait()
    assert clock.due_after(checkpoints) == every
    checkpoints.close()


def test_none_is_due_while_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, run = Clock(monkeypatch, 1.0), new_run()
    checkpoints = Checkpoints(tmp_path, every=20.0)
    clock.go_on.clear()
    checkpoints.save(1, run)
    clock.now += 10_000
    assert not checkpoints.due()
    clock.go_on.set()
    checkpoints.wait()
    assert clock.due_after(checkpoints) == 20 * 10_001 - 10_001
    checkpoints.close()


def test_after_every_step_means_every_step_and_no_folder_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, 100.0)
    checkpoints = Checkpoints(tmp_path, every=0.0)
    for step in (1, 2):
        assert checkpoints.due()
        checkpoints.save(step, new_run())
    checkpoints.close()
    assert checkpoints.due() and not Checkpoints(None, every=0.0).due() and not Checkpoints(None, every=1e-9).due()


def test_a_slow_disk_does_not_slow_training_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a millisecond or a few, of which a checkpoint is due after each by the clock alone."""
    writes: list[float] = []

    def slow(*what: object) -> None:
        time.sleep(0.1)
        writes.append(time.monotonic())

    monkeypatch.setattr("lm.training.checkpoint.checkpoints.write", slow)
    monkeypatch.setenv("TOKENMILL_CHECKPOINT_SECONDS", "1e-6")
    began = time.monotonic()
    fit(recipe(), Recorder(tmp_path), steps=40)
    assert 1 <= len(writes) <= 1 + (time.monotonic() - began) / (20 * 0.1)

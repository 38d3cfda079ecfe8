"""Batches made ahead: the same ones in the same order, whatever the thread, and errors where they belong."""

import threading
import traceback
from pathlib import Path

import pytest
import torch

from lm.training.batch import Batch
from lm.training.loop import train
from lm.training.prefetch import Prefetcher
from lm.transfer import Tensors, to_device
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.test_digests import Witness
from tests.lm.test_training import batches, recipe
from tests.processes import PATIENCE

CPU = torch.device("cpu")
STEPS = 6


class Source:
    """Data of each step, and what was asked of it, by which thread."""

    def __init__(self, broken: int | None = None) -> None:
        self.model = toy_model(seed=1)
        self.broken, self.made, self.asked = broken, batches(self.model), list[tuple[str, int, bool]]()
        self.fetched = threading.Condition()

    def fetch(self, step: int) -> Tensors:
        with self.fetched:
            self.asked.append(("fetch", step, threading.current_thread() is threading.main_thread()))
            self.fetched.notify_all()
        if step == self.broken:
            raise OSError(f"the data of step {step} are gone")
        return torch.randint(0, 261, (4, 17), generator=torch.Generator().manual_seed(step)), None

    def batch(self, step: int, host: Tensors, here: Tensors) -> Batch:
        self.asked.append(("batch", step, threading.current_thread() is threading.main_thread()))
        made = self.made(step)
        return Batch(made.rows, made.length, made.tokens, made.loss, content=host[:1])

    def ahead(self, ahead: bool | None) -> Prefetcher:
        return Prefetcher(self.fetch, self.batch, STEPS, CPU, ahead)


def trained(log: Witness, ahead: bool | None, source: Source | None = None) -> tuple[dict, Witness]:
    source = source or Source()
    with source.ahead(ahead) as batch_at:
        train(source.model, recipe(), STEPS, batch_at, log)
    return source.model.state_dict(), log


def test_a_run_is_the_same_with_batches_made_ahead(tmp_path: Path) -> None:
    (weights, log), (others, other_log) = (trained(Witness(tmp_path / str(a)), a) for a in (True, False))
    assert all(torch.equal(weights[name], other) for name, other in others.items())
    assert log.said == other_log.said and log.points == other_log.points and len(log.said) == STEPS


def test_stopped_and_resumed_equals_whole(tmp_path: Path) -> None:
    whole, log = trained(Witness(tmp_path / "whole"), ahead=True)
    cut = Witness(tmp_path / "cut", stop_after=3)
    with pytest.raises(Stopped):
        trained(cut, ahead=True)
    cut.stop_after, cut.stopping = None, False
    resumed, _ = trained(cut, ahead=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert cut.said == log.said and cut.points == log.points


def test_the_next_step_is_fetched_in_another_thread_and_batches_are_made_in_this_one(tmp_path: Path) -> None:
    source = Source()
    trained(Witness(tmp_path), True, source)
    fetched = [(step, here) for what, step, here in source.asked if what == "fetch"]
    assert fetched == [(0, True), *((step, False) for step in range(1, STEPS))], "none beyond the last"
    assert [(s, here) for what, s, here in source.asked if what == "batch"] == [(s, True) for s in range(STEPS)]


def test_it_is_fetched_before_it_is_asked_for() -> None:
    source = Source()
    with source.ahead(True) as batch_at:
        batch_at(0)
        with source.fetched:
            assert source.fetched.wait_for(lambda: ("fetch", 1, False) in source.asked, timeout=PATIENCE)


def test_on_a_cpu_nothing_is_fetched_early(tmp_path: Path) -> None:
    source = Source()
    trained(Witness(tmp_path), None, source)
    pairs = [[("fetch", s, True), ("batch", s, True)] for s in range(STEPS)]
    assert source.asked == [one for pair in pairs for one in pair]


def test_another_step_than_the_next_gets_its_own_data() -> None:
    source = Source()
    with source.ahead(True) as batch_at:
        for step in (0, 3, 4, 1):
            assert torch.equal(batch_at(step).content[0], Source().fetch(step)[0])


@pytest.mark.parametrize("ahead", [True, False])
def test_what_fails_fails_in_its_own_step_and_says_where(ahead: bool, tmp_path: Path) -> None:
    log = Witness(tmp_path)
    with pytest.raises(OSError, match="the data of step 3 are gone") as raised:
        trained(log, ahead, Source(broken=3))
    assert sorted(log.points) == [0, 1, 2]
    assert "in fetch" in "".join(traceback.format_tb(raised.value.__traceback__))


def test_a_thread_does_not_outlive_its_use() -> None:
    with Source().ahead(True) as batch_at:
        batch_at(0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_on_a_cpu_nothing_is_copied() -> None:
    data = torch.arange(3), None
    here = to_device(data, CPU)
    assert here[0] is data[0] and here[1] is None

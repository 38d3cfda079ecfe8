"""Which GPUs a stage has to itself: a stand-in of a machine with some, and processes that want them."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.stage.pools import run_anywhere
from flows.staleness.plan import Planned
from tasks.runner import devices
from tasks.runner.devices import device_locks, lock_devices, visible_devices, works_on_a_device
from tasks.runner.graph import Entry
from tasks.runner.locks import takes_a_slot

# A stage as far as its device: it says what CUDA would find, and ends when it is told to.
STAGE = """
import os, sys
from tasks.runner import devices, locks
from tasks.runner.graph import Entry
devices.present = lambda: int(sys.argv[2])
entry = Entry(sys.argv[1], "", [], [], [], {"gpus": int(sys.argv[3])})
with locks.slot(entry.meta), devices.device_locks(entry):
    print("works with", os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""


class Stages:
    """Processes of a machine with so many GPUs."""

    def __init__(self, home: Path, gpus: int) -> None:
        self._environment = {**os.environ, "XDG_CACHE_HOME": str(home), "TOKENMILL_LOCKS": str(home / "locks")}
        for name in ("CUDA_VISIBLE_DEVICES", "TOKENMILL_WORKERS"):
            self._environment.pop(name, None)
        self._gpus, self._started = gpus, []

    def start(self, address: str, wanted: int = 1, **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", STAGE, address, str(self._gpus), str(wanted)],
            env=self._environment | more,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Stages]:
    stages = Stages(tmp_path, 8)
    yield stages
    stages.end()


def said(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip()


def test_five_evaluations_of_eight_gpus_run_side_by_side(machine: Stages) -> None:
    names = ("pretrain", "sft", "rl", "distill", "quantize")
    running = [machine.start(f"evaluate@{name}") for name in names]
    lines = [said(process) for process in running]
    works = [said(process) for process in running]  # all are there at once: none has been told to end
    assert sorted(works) == [f"works with {gpu}" for gpu in range(5)]
    assert lines == [
        f"evaluate@{name}: on GPU {work.removeprefix('works with ')} of 8"
        for name, work in zip(names, works, strict=True)
    ]
    many, rest = machine.start("pretrain", 4), machine.start("sft", CUDA_VISIBLE_DEVICES="0,7,1")
    assert said(rest) == "sft: on GPU 7 of 3" and said(rest) == "works with 7"
    assert said(many) == "pretrain: waiting for 4 GPUs of 0, 1, 2, 3, 4, 5, 6, 7: other stages hold the rest"
    running[1].kill()  # however it ends
    running[3].communicate()
    freed = {works[1].split()[-1], works[3].split()[-1]}
    assert said(many) == "pretrain: on GPU " + ", ".join(sorted({"5", "6"} | freed)) + " of 8"


def test_one_waits_where_none_is_free(tmp_path: Path) -> None:
    stages = Stages(tmp_path, 1)
    try:
        first = stages.start("evaluate@sft")
        assert said(first) == "evaluate@sft: on GPU 0 of 1"
        second = stages.start("evaluate@rl")
        assert said(second) == "evaluate@rl: waiting for a GPU of 0: other stages hold the rest"
        first.communicate()
        assert [said(second), said(second)] == ["evaluate@rl: on GPU 0 of 1", "works with 0"]
    finally:
        stages.end()


@pytest.mark.parametrize(
    ("present", "visible", "names"),
    [
        (0, "0", []),
        (0, None, []),
        (3, None, ["0", "1", "2"]),
        (4, "3, 1", ["3", "1"]),
        (4, "", []),
        (4, "-1", []),
        (4, "GPU-8a1c", ["GPU-8a1c"]),
    ],
)
def test_the_devices_that_a_process_may_use(present: int, visible: str | None, names: list[str]) -> None:
    assert visible_devices(present, visible) == names


@pytest.fixture
def four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of four."""
    monkeypatch.setattr(devices, "present", lambda: 4)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TOKENMILL_WORKERS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1,0,2")


def entry(gpus: int) -> Entry:
    return Entry("pretrain", "", [], [], [], {"gpus": gpus} if gpus else {})


@pytest.mark.parametrize(
    ("gpus", "ranks", "launched", "held"),
    [
        (0, 1, False, "3,1,0,2"),
        (1, 1, False, "1"),
        (1, 2, False, "1,0"),
        (0, 2, False, "1,0"),
        (1, 3, False, "1,0,2"),
        (9, 1, False, None),
        (1, 2, True, None),
    ],
)
def test_what_a_stage_holds_while_another_has_the_first(
    four: None, gpus: int, ranks: int, launched: bool, held: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks of torchrun take the devices of their own numbers; so they, and a stage that wants all, wait for the other."""

    def waits(seconds: float) -> None:
        raise TimeoutError

    monkeypatch.setattr("tasks.runner.devices.time.sleep", waits)
    with device_locks(entry(1)):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
        os.environ["CUDA_VISIBLE_DEVICES"] = "3,1,0,2"  # as another process has it
        if held is None:
            with pytest.raises(TimeoutError), device_locks(entry(gpus), ranks, launched):
                pass
        else:
            with device_locks(entry(gpus), ranks, launched):
                assert os.environ["CUDA_VISIBLE_DEVICES"] == held
    os.environ["CUDA_VISIBLE_DEVICES"] = "3,1,0,2"
    with device_locks(entry(9)):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,1,0,2"


def test_devices_that_cuda_does_not_find_are_not_taken(four: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for found, held in ((2, "3,1"), (0, "3,1,0,2")):
        monkeypatch.setattr("torch.cuda.device_count", lambda found=found: found)
        os.environ["CUDA_VISIBLE_DEVICES"] = "3,1,0,2"
        with device_locks(entry(4)):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == held


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.integers(1, 6), st.lists(st.integers(1, 6), max_size=6))
def test_nobody_shares_a_device_or_keeps_some_of_too_few(count: int, wishes: list[int]) -> None:
    """One after the other takes what it wants of what is left, or nothing."""
    names, taken = [str(number) for number in range(count)], set()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for wanted in wishes:
            held = lock_devices(names, wanted, Path(folder))
            for file in held.values():
                stack.enter_context(file)
            assert not taken & held.keys() and len(held) == (wanted if wanted <= count - len(taken) else 0)
            taken |= held.keys()


def test_a_stage_on_a_device_takes_no_slot(four: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it is said how many may run at once, or it finds no device."""
    assert works_on_a_device({"gpus": 1}) and not works_on_a_device({})
    assert not takes_a_slot({"gpus": 1}) and takes_a_slot({})
    monkeypatch.setenv("TOKENMILL_WORKERS", "2")
    assert takes_a_slot({"gpus": 1})
    monkeypatch.delenv("TOKENMILL_WORKERS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert takes_a_slot({"gpus": 1})


@pytest.mark.parametrize(("meta", "counted"), [({"gpus": 1}, 0), ({}, 1)])
def test_a_flow_holds_no_slot_for_it_either(
    four: None, meta: dict[str, int], counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slots(ExitStack):
        entered = 0

        def __enter__(self) -> "Slots":
            self.entered += 1
            return self

    slots = Slots()
    monkeypatch.setattr("flows.stage.pools.run_stage", lambda *arguments: arguments[1])
    assert run_anywhere(Path(), Planned("evaluate@rl", [], meta, None), False, slots, print, {}) == "evaluate@rl"
    assert slots.entered == counted

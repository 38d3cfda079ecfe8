"""What every stage does around its work: config, locks, resume, whole outputs, metrics, timings and tracking."""

import gc
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from lm.config import Config
from lm.files import write_json, write_text
from tasks.core.config import ConfigError, load, read_params
from tasks.core.libraries import check_versions
from tasks.core.log import Log, Stopped
from tasks.core.process import join_audit, keep_to_limits, no_collection, peak_memory, use_threads
from tasks.runner import timings
from tasks.runner.arithmetic import Arithmetic
from tasks.runner.asked import check_asked
from tasks.runner.auditing import Sections, audited
from tasks.runner.child import PARENT_ENDED, die_with_parent, load_again, loaded_from
from tasks.runner.devices import device_locks
from tasks.runner.folders import make_view, output_path, replace
from tasks.runner.full import is_full
from tasks.runner.graph import Entry, read_graph
from tasks.runner.guardian import watch_over
from tasks.runner.intact import check_intact
from tasks.runner.json_lines import Lines
from tasks.runner.key import Changed, Inputs
from tasks.runner.locks import lock, slot
from tasks.runner.machine import hardware
from tasks.runner.own import keep_compiled_code
from tasks.runner.progress import Progress
from tasks.runner.ranks import FollowersLog, Ranks, Trained
from tasks.runner.record import made_by
from tasks.runner.recorded import path_of, text_of
from tasks.runner.resume import aside, take_up
from tasks.runner.rooms import config_of, room_of
from tasks.runner.say import say
from tasks.runner.tracker import Tracker

SCRATCH = Path(".scratch")
BAD_CONFIG, STOPPED = 2, 128 + signal.SIGTERM


class StageLog(Log):
    """The log of a real stage: curves and samples in its scratch and in the tracker, progress on the terminal."""

    def __init__(self, address: str, folder: Path, tracker: Tracker, memo: Path | None = None) -> None:
        self.address, self.memo = address, memo
        self.scratch = folder / "checkpoints"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.facts: dict[str, float] = {}
        self.execution: dict[str, str] = {}
        self.parts = folder / "parts"
        self.steps = 0
        self._progress, self._tracker = Progress(address), tracker
        resumes = any(self.scratch.iterdir())
        self._curves, self._samples = Lines(folder / "curves.jsonl", resumes), Lines(folder / "samples.jsonl", resumes)
        self._digests = Lines(folder / "digests.jsonl", resumes)

    def __call__(self, step: int, **values: float) -> None:
        self._curves.add(step, values)
        self.steps += 1
        self._tracker.point(step, values)

    def samples(self, step: int, texts: dict[str, str]) -> None:
        self._samples.add(step, {"texts": texts})
        self._tracker.samples(step, texts)

    def digests(self, step: int, values: dict[str, Any]) -> None:
        self._digests.add(step, values)

    def rewind(self, step: int) -> None:
        self._digests.rewind(step)
        curves, samples = self._curves.rewind(step), self._samples.rewind(step)
        if not self.steps:  # resumed: this run's record begins with what the killed run said
            for values in curves:
                self._tracker.point(values.pop("step"), values)
            for said in samples:
                self._tracker.samples(**said)

    def progress(self, done: int, total: int, unit: str = "step", **shown: float) -> None:
        if self.stopping and not self.steps:
            self.stop()
        self._progress.show(done, total, unit, shown)

    def fact(self, **values: float) -> None:
        self.facts.update(values)

    def computed(self, how: dict[str, str]) -> None:
        self.execution.update(how)

    def trunks(self, *what: Any) -> Any:
        from tasks.runner.trunks import trunks_of  # imports torch

        return trunks_of(self.address, self, *what)

    def close(self) -> None:
        self._progress.close()
        self._curves.close()
        self._samples.close()
        self._digests.close()

    def written(self) -> list[Path]:
        """Paths of the line files that hold something."""
        return [lines.path for lines in (self._curves, self._samples, self._digests) if lines.path.stat().st_size]


def stage_called(arguments: list[str]) -> tuple[str, type[Config], Callable[..., dict[str, float]], str | None]:
    """(name, class of its config, `run`, item) out of the command's arguments STAGE [ITEM]. Exits with 2 and a line where there
    is no such stage."""
    name, item = (*arguments, None, None)[:2]
    with no_collection():  # 0.25 of the 1.8 s that those with torch take
        room = room_of(name) if name and name.isidentifier() else None
    if not name or room is None:
        say(f"python -m tasks.runner: no stage {name!r}: a stage is a folder of tasks/ with a stage.py", error=True)
        sys.exit(BAD_CONFIG)
    return name, config_of(name), room.run, item


def main(name: str, kind: type[Config], run: Callable[..., dict[str, float]], item: str | None = None) -> None:
    """Run a stage as `dvc repro` starts it: `python -m tasks.runner <name> [item]`, in the project's root.

    Exits 0 when the stage is done, 2 for parameters or input that cannot be used (one line each) and for training that
    diverged, 143 when it was asked to stop and has saved a checkpoint, 1 for anything else.
    """
    address = f"{name}@{item}" if item else name
    gc.freeze()  # what is imported stays: neither the work nor Python's end, 0.6 s with torch, need look at it again
    try:
        graph, params = read_graph(), read_params()
        entry = graph.get(address)
        if entry is None:
            raise ConfigError(f"dvc.yaml: has no stage {address}")
        check_asked(address, graph)
        check_versions(entry.params, params)
        sections = Sections(params)
        config = load(name, kind, sections)
        ranks = Ranks(address, config)
        keep_compiled_code()
        if ranks.rank:
            _follow(ranks, config, run, entry)
            return
        die_with_parent()
        inputs = Inputs(entry, params)  # before the wait for a lock: the code that runs is the code of now
        if inputs.code_changed_since(loaded_from()):  # what was imported may be of before or after the change
            if ranks.size > 1 and "WORLD_SIZE" in os.environ:
                raise Changed(f"{address}: its code changed while the ranks started; run it again", spared=True)
            load_again()
        with lock(address), slot(entry.meta), device_locks(entry, ranks.gpus, ranks.launched):
            _work(inputs, config, run, ranks, sections)
        inputs.check_unchanged()  # once more: the store of runs may have taken its time
        watch_over(entry)
    except Changed as error:
        say(error, error=True)
        sys.exit(1)
    except (ConfigError, FloatingPointError) as error:  # neither goes away by trying again
        # the others met the same; torchrun ends all when one has ended, so there the first may never come to say it
        if int(os.environ.get("RANK", "0")) == 0 or "TORCHELASTIC_RUN_ID" in os.environ:
            say(error if isinstance(error, ConfigError) else f"{address}: {error}", error=True)
        sys.exit(BAD_CONFIG)
    except OSError as error:
        if not is_full(error):
            raise
        where = f"{error.filename}: " if error.filename else ""
        say(
            f"{address}: {where}{error.strerror or error}; make room and run it again: nothing finished is lost",
            error=True,
        )
        sys.exit(1)
    except Stopped:
        with suppress(OSError):  # its reader may be what ended
            say(f"{address}: stopped; the next run continues from what it has saved", error=True)
        # torch imports when Python exits, and a stage was seen to wait for ever there for an import lock: probably that of an
        # import which the signal had cut short.
        os._exit(STOPPED)


def _follow(ranks: Ranks, config: Config, run: Callable[..., dict[str, float]], entry: Entry) -> None:
    """What a rank but the first does: the same work until the model is trained, of which it says and keeps nothing."""
    use_threads(is_deterministic(config))
    join_audit()
    with ranks.follow() as view, suppress(Trained):
        run(config, view, FollowersLog(), *([entry.item] if entry.item else []))


def is_deterministic(config: Config) -> bool:
    """Whether the stage promises the same bits each time: all do but those that train and are told not to."""
    return getattr(config, "deterministic", True)


def _work(
    inputs: Inputs, config: Config, run: Callable[..., dict[str, float]], ranks: Ranks, sections: Sections
) -> None:
    began, entry = time.monotonic(), inputs.entry
    check_intact(entry, inputs.md5s)
    folder = SCRATCH / entry.address / inputs.key
    use_threads(is_deterministic(config))
    keep_to_limits()
    arithmetic = Arithmetic(entry.address)
    memo = SCRATCH / "memo" / entry.address / inputs.memo_key
    spread = {"parallel": ranks.spread}
    went_on = take_up(entry.address, folder, hardware() | spread)
    tracker = Tracker(entry, inputs.key, inputs.md5s, inputs.params)
    try:
        view = make_view(entry, folder)
        log = StageLog(entry.address, folder, tracker, memo)
        _stop_when_asked(log)
        with audited(entry, sections), ranks.lead(folder, view):
            metrics = run(config, view, log, *([entry.item] if entry.item else []))
        log.close()
        arithmetic.check()
        facts = {"seconds": time.monotonic() - began, "peak_memory_bytes": peak_memory(), **log.facts}
        _check_finite(entry, metrics | log.facts)
        inputs.check_unchanged()
        for path in log.written():
            shutil.copyfile(path, view / output_path(entry) / path.name)
        replace(view / output_path(entry), Path(entry.outs[0]))
        write_json(Path("data/metrics") / f"{entry.address}.json", metrics)
        computes = {"arithmetic": arithmetic.found} if arithmetic.found else {}
        machine = hardware() | computes | spread | log.execution | went_on
        record = made_by(entry, inputs.key, inputs.md5s, inputs.params, machine)
        timings.write(Path(), entry.address, facts, asdict(record))
        if path_of(entry.address) in entry.outs:
            write_text(Path(path_of(entry.address)), text_of(inputs.decides))
    except BaseException as error:
        if (
            isinstance(error, Changed) and not error.spared
        ):  # else a run with what stood there before would go on from it
            shutil.rmtree(folder)
            shutil.rmtree(memo, ignore_errors=True)
        tracker.close("KILLED" if isinstance(error, Stopped | KeyboardInterrupt) else "FAILED", {}, {})
        raise
    tracker.close("FINISHED", metrics, facts, record.tags())
    for done in (folder, *aside(folder)):
        shutil.rmtree(done)
    for other in memo.parent.glob("*"):  # one memo a stage: that of other params or code is of no more use
        if other != memo:
            shutil.rmtree(other)


def _check_finite(entry: Entry, metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{entry.address}: the metric {name} must be a finite number, not {value!r}")


def _stop_when_asked(log: StageLog) -> None:
    """A first SIGTERM, Ctrl-C, or the end of the parent asks the training loop to checkpoint and stop. A stage that has not
    done so by a second one, or that logs no steps (the data stages, which begin anew anyway), ends at once.

    The parent's end does not count: when a group of processes is ended it is there at once with the signal to them all, and
    Python handles it first, whichever came first.
    """
    told = 0

    def asked(signum: int, frame: FrameType | None) -> None:
        nonlocal told
        told += signum != PARENT_ENDED
        log.stopping = True
        if told > 1 or not log.steps:
            raise Stopped

    for signum in (signal.SIGINT, signal.SIGTERM, PARENT_ENDED):
        signal.signal(signum, asked)

"""What every stage does around its work: config, locks, resume, whole outputs, metrics, timings and tracking."""

import ctypes
import fcntl
import json
import math
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lm.config import Config
from tasks.core.config import ConfigError, load, read_params
from tasks.core.graph import Entry, read_graph
from tasks.core.key import dependency_md5s, read_ignored, signature, stage_key
from tasks.core.log import Log, Stopped
from tasks.core.progress import Progress
from tasks.core.tracking import Tracker

SCRATCH = Path(".scratch")
BAD_CONFIG, STOPPED = 2, 128 + signal.SIGTERM


class StageLog(Log):
    """The log of a real stage: curves in its scratch, progress on the terminal, both to the tracker too."""

    def __init__(self, address: str, folder: Path, tracker: Tracker) -> None:
        self.scratch = folder / "checkpoints"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.facts: dict[str, float] = {}
        self.curves = folder / "curves.jsonl"
        self.steps = 0
        self._progress, self._tracker = Progress(address), tracker
        self._file = self.curves.open("a", buffering=1)  # a line at a time: a kill loses none that was said

    def __call__(self, step: int, **values: float) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self.steps += 1
        self._tracker.point(step, values)

    def rewind(self, step: int) -> None:
        whole = [line for line in self.curves.read_text().splitlines(keepends=True) if line.endswith("\n")]
        self._file.close()
        self.curves.write_text("".join(line for line in whole if json.loads(line)["step"] < step))
        self._file = self.curves.open("a", buffering=1)

    def progress(self, done: int, total: int, unit: str = "step", **shown: float) -> None:
        self._progress.show(done, total, unit, shown)

    def fact(self, **values: float) -> None:
        self.facts.update(values)

    def close(self) -> None:
        self._progress.close()
        self._file.close()


def main(name: str, kind: type[Config], run: Callable[..., dict[str, float]]) -> None:
    """Run a stage as `dvc repro` starts it: `python -m tasks.<name>.stage [item]`, in the project's root.

    Exits 0 when the stage is done, 2 for parameters or input that cannot be used (one line each), 143 when it was asked
    to stop and has saved a checkpoint, 1 for anything else.
    """
    address = "@".join([name, *sys.argv[1:2]])
    try:
        entry, params = read_graph().get(address), read_params()
        if entry is None:
            raise ConfigError(f"dvc.yaml: has no stage {address}")
        _die_with_parent()
        with _lock(address), _device(entry):
            _work(entry, load(name, kind, params), params, run)
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(BAD_CONFIG)
    except Stopped:
        print(f"{address}: stopped; it continues from its checkpoint next time", file=sys.stderr)
        sys.exit(STOPPED)


def _work(entry: Entry, config: Config, params: dict[str, Any], run: Callable[..., dict[str, float]]) -> None:
    began, ignored = time.monotonic(), read_ignored()
    before, md5s = signature(entry, ignored), dependency_md5s(entry, ignored)
    key = stage_key(entry, md5s, params)
    folder = SCRATCH / entry.address / key
    _use_threads()
    tracker = Tracker(entry, key, md5s, params)
    try:
        view = _make_view(entry, folder)
        log = StageLog(entry.address, folder, tracker)
        _stop_on_sigterm(log)
        metrics = run(config, view, log, *([entry.item] if entry.item else []))
        log.close()
        _check_metrics(entry, metrics)
        _check_unchanged(entry, ignored, before, md5s)
        if log.curves.stat().st_size:
            shutil.copyfile(log.curves, view / _inside(entry) / "curves.jsonl")
        _replace(view / _inside(entry), Path(entry.outs[0]))
        facts = {"seconds": time.monotonic() - began, "peak_memory_bytes": _peak_memory(), **log.facts}
        write_json(Path("data/metrics") / f"{entry.address}.json", metrics)
        write_json(Path("data/timings") / f"{entry.address}.json", facts)
    except BaseException as error:
        tracker.close("KILLED" if isinstance(error, Stopped | KeyboardInterrupt) else "FAILED", {}, {})
        raise
    tracker.close("FINISHED", metrics, facts)
    shutil.rmtree(folder)


def _inside(entry: Entry) -> Path:
    """Where a stage's output is below data/."""
    return Path(entry.outs[0]).relative_to("data")


def _make_view(entry: Entry, folder: Path) -> Path:
    """A data folder that holds the declared dependencies, by links, and an empty output folder: a stage that reads
    what dvc.yaml does not declare fails instead of being stale unnoticed."""
    view = folder / "view"
    shutil.rmtree(view, ignore_errors=True)
    for path in map(Path, entry.deps):
        if path.parts[0] == "data":
            link = view / path.relative_to("data")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    (view / _inside(entry)).mkdir(parents=True)
    return view


def _check_metrics(entry: Entry, metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{entry.address}: the metric {name} must be a finite number, not {value!r}")


def _check_unchanged(entry: Entry, ignored: Any, before: list[tuple[str, int, int]], md5s: dict[str, str]) -> None:
    """DVC hashes dependencies after a stage ends; one edited meanwhile would be recorded as what made the output."""
    if signature(entry, ignored) == before:
        return
    changed = sorted(path for path, md5 in dependency_md5s(entry, ignored).items() if md5 != md5s[path])
    if changed:
        raise RuntimeError(f"{entry.address}: {', '.join(changed)} changed while the stage ran; run it again")


def _replace(made: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        shutil.rmtree(out)
    os.replace(made, out)


def write_json(path: Path, values: dict[str, float]) -> None:
    """Write sorted, indented JSON; a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n")
    os.replace(unfinished, path)


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _use_threads() -> None:
    """Threads change the order of sums, so the number is fixed for a machine: TOKENMILL_THREADS, else its cores."""
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.set_num_threads(int(os.environ.get("TOKENMILL_THREADS", len(os.sched_getaffinity(0)))))
        torch.use_deterministic_algorithms(True)


def _stop_on_sigterm(log: StageLog) -> None:
    """A first SIGTERM asks the training loop to checkpoint and stop. A stage that has not done so by a second one, or
    that logs no steps (the data stages, which begin anew anyway), ends at once."""

    def asked(signum: int, frame: FrameType | None) -> None:
        if log.stopping or not log.steps:
            raise Stopped
        log.stopping = True

    signal.signal(signal.SIGTERM, asked)


def _die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends: DVC does not pass signals on, and orphans would go on writing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() == 1 and os.environ.get("DVC_STAGE"):
            raise Stopped


@contextmanager
def _lock(name: str) -> Iterator[None]:
    """Hold the lock of this name; the kernel lets it go when the process ends, however it ends."""
    path = SCRATCH / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name}: waiting for another process that holds {path}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _device(entry: Entry) -> Iterator[None]:
    """Hold the GPU for a stage that asks for one, where there is one."""
    if entry.meta.get("gpus") and Path("/proc/driver/nvidia").exists():
        with _lock(f"device-{os.environ.get('CUDA_VISIBLE_DEVICES', '0')}"):
            yield
    else:
        yield

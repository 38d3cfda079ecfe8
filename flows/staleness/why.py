"""`make why STAGE=pretrain`: why a stage would run or would not, in sentences, and which run made what it has left."""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.params.compose import check_targets
from flows.staleness.changes import Change, blob_bytes, committed, only_words
from flows.staleness.plan import Planned, make_plan, may_run
from tasks.core.config import ConfigError, read_params
from tasks.runner.answer import add_json_option, print_json
from tasks.runner.git import git
from tasks.runner.graph import closure
from tasks.runner.key import locked_key
from tasks.runner.lock import lock_entry
from tasks.runner.tracking import maker_of

CODE = ("flows/", "kernels/", "lm/", "tasks/")


def explain(root: Path, address: str) -> list[str]:
    """The lines on one stage, or on each stage of that name, `evaluate` being five."""
    return [line for found in reasons(root, address) for line in found.lines()]


@dataclass(frozen=True)
class Reasons:
    """Why a stage would run or would not. state: "stale", "may run" or "up to date". because: what differs in it; before: what
    differs in stages that it stands on, each by its name. after: the stages that may run before it. outs: what it has left."""

    stage: str
    state: str
    because: list[str] = field(default_factory=list)
    before: list[tuple[str, str]] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    outs: list[dict[str, Any]] = field(default_factory=list)
    counted: str = ""
    made: str = ""

    def lines(self) -> list[str]:
        """Sentences that say all of it."""
        may_differ = "may run before it, and it runs again if what that leaves differs"
        follows = [f"  {', '.join(self.after)} {may_differ}"] if self.after else []
        if self.state == "stale":
            return [f"{self.stage} is stale:", *(f"  {line}" for line in self.because), *follows]
        if self.state == "may run":
            head = f"{self.stage} may run: nothing of its own has changed, but what it stands on has:"
            return [head, *(f"  {stage}: {line}" for stage, line in self.before), *follows]
        left = [f"  {out['path']}: md5 {out['md5']}, {out.get('size', 0):,} bytes" for out in self.outs]
        return [f"{self.stage} is up to date: {self.counted}", *left, f"  {self.made}"]


def reasons(root: Path, address: str) -> list[Reasons]:
    """Why one stage, or each stage of that name, would run or would not. Raises ConfigError while a run is going on."""
    plan = make_plan(root, [address])
    running = {stage.address for stage in may_run(plan)}
    asked = [stage for stage in plan if address in (stage.address, stage.address.partition("@")[0])]
    return [_reasons(root, stage, running, stale_before(plan, stage)) for stage in asked]


def stale_before(plan: list[Planned], stage: Planned) -> list[Planned]:
    """The stale stages that this one stands on, directly or through others, in order."""
    found = closure({each.address: each.after for each in plan}, stage.after)
    return [each for each in plan if each.address in found and each.reason]


def _reasons(root: Path, stage: Planned, running: set[str], stale: list[Planned]) -> Reasons:
    after = [name for name in stage.after if name in running]
    if stage.reason:
        because = [line for change in stage.changes for line in _detail(root, change)]
        return Reasons(stage.address, "stale", because, after=after)
    if after:
        before = [(each.address, line) for each in stale for c in each.changes for line in _detail(root, c)]
        return Reasons(stage.address, "may run", before=before, after=after)
    locked = lock_entry(root, stage.address)
    assert locked is not None  # else it would be stale
    deps, params = len(locked.get("deps", [])), len(locked.get("params", {}).get("params.yaml", {}))
    counted = (
        f"command, {deps} dependencies, {params} sections of params and versions of libraries, "
        "and outputs are those that dvc.lock records"
    )
    made = _made(locked_key(locked))
    return Reasons(stage.address, "up to date", outs=locked.get("outs", []), counted=counted, made=made)


def _detail(root: Path, change: Change) -> list[str]:
    """The difference, and of code that git knows as the lock records it: where, and whether anything but words changed."""
    if not change.path.startswith(CODE):
        return [change.words]
    found = committed(root, change.dependency, change.md5)
    if found is None:
        return [f"{change.words}; none of the last commits has what dvc.lock records of {change.dependency}"]
    date = git(root, "show", "--no-patch", "--format=%h of %as", found.revision)
    path = root / change.path
    name = change.path if change.path == change.dependency else change.path.removeprefix(f"{change.dependency}/")
    words = ""
    if path.is_file() and name in found.blobs:
        old = blob_bytes(root, found.blobs[name]).decode(errors="replace")
        words = ", in comments, docstrings or layout alone" if only_words(old, path.read_text(errors="replace")) else ""
    return [f"{change.words}{words}; dvc.lock records {change.dependency} as commit {date} has it"]


def _made(key: str) -> str:
    """Sentence that tells which run made the bytes, and when."""
    found = maker_of(key)
    if found is None:
        return f"no MLflow run with its key {key[:12]} is recorded here: the bytes came from DVC's cache, or tracking was off"
    run, ended = found
    return f"made by the MLflow run {run} that ended at {ended:%Y-%m-%d %H:%M:%S} UTC; its key is {key[:12]}"


def main() -> int:
    """Exit code: 0 explained, 1 a run is going on, 2 no such stage."""
    parser = argparse.ArgumentParser(prog="tokenmill why", description=__doc__)
    parser.add_argument("stage")
    add_json_option(parser)
    asked, root = parser.parse_args(), Path.cwd()
    try:
        check_targets(root, read_params(), [asked.stage])
    except ConfigError as error:
        print(str(error).replace("TARGETS", "STAGE", 1), file=sys.stderr)
        return 2
    try:
        if asked.json:
            print_json(reasons(root, asked.stage))
        else:
            print("\n".join(explain(root, asked.stage)))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`make why STAGE=pretrain`: why a stage would run or would not, in sentences, and which run made what it has left."""

import sys
from pathlib import Path

from flows.params.compose import check_targets
from flows.staleness.changes import Change, blob_bytes, committed, only_words
from flows.staleness.plan import Planned, make_plan, may_run
from tasks.core.config import ConfigError
from tasks.runner.git import git
from tasks.runner.key import locked_key
from tasks.runner.lock import lock_entry
from tasks.runner.tracking import maker_of

CODE = ("flows/", "kernels/", "lm/", "tasks/")


def explain(root: Path, address: str) -> list[str]:
    """The lines on one stage, or on each stage of that name, `evaluate` being five."""
    plan = make_plan(root, [address])
    running = {stage.address for stage in may_run(plan)}
    asked = [stage for stage in plan if address in (stage.address, stage.address.partition("@")[0])]
    return [line for stage in asked for line in _explain(root, stage, running, stale_before(plan, stage))]


def stale_before(plan: list[Planned], stage: Planned) -> list[Planned]:
    """The stale stages that this one stands on, directly or through others, in order."""
    known, waiting = {each.address: each for each in plan}, [*stage.after]
    found: set[str] = set()
    while waiting:
        address = waiting.pop()
        if address not in found:
            found.add(address)
            waiting += known[address].after
    return [each for each in plan if each.address in found and each.reason]


def _explain(root: Path, stage: Planned, running: set[str], stale: list[Planned]) -> list[str]:
    before = [name for name in stage.after if name in running]
    follows = f"{', '.join(before)} may run before it, and it runs again if what that leaves differs" if before else ""
    if stage.reason:
        lines = [
            f"{stage.address} is stale:",
            *(f"  {line}" for change in stage.changes for line in _detail(root, change)),
        ]
        return [*lines, f"  {follows}"] if before else lines
    if before:
        what = [f"  {each.address}: {line}" for each in stale for c in each.changes for line in _detail(root, c)]
        return [
            f"{stage.address} may run: nothing of its own has changed, but what it stands on has:",
            *what,
            f"  {follows}",
        ]
    locked = lock_entry(root, stage.address)
    assert locked is not None  # else it would be stale
    deps, params = len(locked.get("deps", [])), len(locked.get("params", {}).get("params.yaml", {}))
    lines = [
        f"{stage.address} is up to date: command, {deps} dependencies, {params} sections of params and versions of libraries, "
        "and outputs are those that dvc.lock records"
    ]
    lines += [f"  {out['path']}: md5 {out['md5']}, {out.get('size', 0):,} bytes" for out in locked.get("outs", [])]
    return [*lines, f"  {_made(locked_key(locked))}"]


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
    try:
        check_targets(Path.cwd(), sys.argv[1:2])
    except ConfigError as error:
        print(str(error).replace("TARGETS", "STAGE", 1), file=sys.stderr)
        return 2
    try:
        print("\n".join(explain(Path.cwd(), sys.argv[1])))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

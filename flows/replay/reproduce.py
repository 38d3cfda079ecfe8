"""`make reproduce`: run every stage of a committed lock again, from nothing, and say of each whether the bytes are the same,
how far off they are if not, and where and why the first difference began."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.environment import environment
from flows.params.compose import CURRENT, compose, write
from flows.replay.bisect import DIVERGED, compare, order_of, report
from flows.replay.finished_run import Side, from_folder, from_revision, locked_at, revision_of
from flows.stage.process import run_stage
from tasks.runner.answer import add_json_option, print_json, stdout_to_stderr
from tasks.runner.git import forget_worktrees, git
from tasks.runner.locks import LOCKS, lock


def outside(locked: dict[str, Any]) -> list[str]:
    """Inputs outside the repository, which the lock names by ../, those that hold others first."""
    paths = {os.path.normpath(dep["path"]) for entry in locked.values() for dep in entry.get("deps", [])}
    return sorted(path for path in paths if path.startswith(".."))


def place_in(area: Path, locked: dict[str, Any]) -> Path:
    """Where in a folder the copy is to lie, so deep that what the lock names by ../ lies in that folder, too."""
    ups = max((Path(path).parts.count("..") for path in outside(locked)), default=1)
    return area.joinpath(*[area.name] * ups)


def bring_inputs(root: Path, copy: Path, locked: dict[str, Any]) -> None:
    """Inputs outside the repository linked to where the copy will look for them. One that is not there has no link, so that its
    stage says that it is missing. Raises ValueError for one that has the name of the copy."""
    for path in outside(locked):
        link, target = (Path(os.path.normpath(folder / path)) for folder in (copy, root))
        if target.exists() and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target.resolve())
        elif link.exists() and not (target.exists() and link.samefile(target)):
            raise ValueError(
                f"{path}: has the name of the copy in which the run is made again: call the input otherwise"
            )


def up_to(side: Side, stage: str | None) -> Side:
    """The side without the stages that this one does not need; all of it for None."""
    wanted = {stage} if stage else set(side.records)
    for address in reversed(order_of([side])):
        if address in wanted:
            needed = side.records[address].deps
            wanted |= {other for other in side.records if f"data/{other.replace('@', '/')}" in needed}
    return replace(side, records={address: side.records[address] for address in side.records if address in wanted})


def run_again(root: Path, copy: Path, commit: str, stages: list[str]) -> int:
    """Check the commit out into `copy` and run these stages there, in this order, whatever a lock or a cache says, until one
    fails; the exit code. What they say and how far they are is printed as `make pipeline` does."""
    git(root, "worktree", "add", "--detach", "--force", str(copy), commit)
    bring_inputs(root, copy, locked_at(root, commit))
    write(copy, compose(copy, CURRENT, []))  # with the versions that run here, which may be what makes the difference
    (copy / "dvc.lock").unlink()  # so that the one that is there afterwards names what has run, and nothing else
    surroundings = {**environment(copy), "TOKENMILL_TRACKING": "off"}
    surroundings["PYTHONPATH"] = os.pathsep.join(filter(None, [str(copy), os.environ.get("PYTHONPATH")]))
    for number, address in enumerate(stages, 1):
        print(f"{address:>18} | {number} of {len(stages)}", flush=True)
        began = time.monotonic()
        ended = run_stage(copy, address, True, lambda line: print(f"{'':>18} | {line}", flush=True), surroundings)
        if ended.code:
            return ended.code
        print(f"{'':>18} | after {time.monotonic() - began:.0f} s", flush=True)
    return 0


def clear(root: Path, area: Path) -> None:
    """Remove the folder of a copy, the links in it but not what they lead to, and have git forget it."""
    shutil.rmtree(area, ignore_errors=True)
    forget_worktrees(root)


def reproduce(root: Path, name: str, is_json: bool = False) -> int:
    """Exit code: 0 when every stage is bit-equal or within tolerance, 1 when one diverged or failed. The copy is removed
    afterwards, and is one call's at a time. Raises ValueError for a name that leads to no lock."""
    commit, stage = revision_of(root, name)
    area = root / ".scratch" / "reproduce" / commit[:12]
    with (
        tempfile.TemporaryDirectory(prefix="tokenmill-reproduce-") as folder,
        stdout_to_stderr(is_json),
        lock(f"reproduce-{commit[:12]}", root / LOCKS),
    ):
        left = up_to(from_revision(root, commit, Path(folder)), stage)
        copy = place_in(area, locked_at(root, commit))
        clear(root, area)  # of what a kill left
        try:
            code = run_again(root, copy, commit, order_of([left]))
            right = from_folder(copy) if (copy / "dvc.lock").exists() else replace(left, name="this run", records={})
            print(f"\n{commit[:12]}, run again:")
            verdicts = compare(left, replace(right, name="this run"))
            first = report(left, replace(right, name="this run"), verdicts)
        finally:
            clear(root, area)
    if is_json:
        print_json({"revision": commit, "stages": verdicts, "first": first, "code": code})
    return 1 if code or any(found.kind == DIVERGED for found in verdicts) else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="tokenmill reproduce", description=__doc__)
    parser.add_argument("revision", nargs="?", default="HEAD", help="a git revision, or the id of an MLflow run")
    add_json_option(parser)
    asked = parser.parse_args()
    try:
        return reproduce(Path.cwd(), asked.revision, asked.json)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

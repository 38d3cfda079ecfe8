"""`make reproduce`: run every stage of a committed lock again, from nothing, and say stage by stage what came out."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from flows.compare import differences, read_lock
from flows.environment import environment
from tasks.core.graph import read_graph


def git(root: Path, *arguments: str) -> str:
    """What git prints. Raises ValueError with its complaint."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def bring_inputs(root: Path, copy: Path, lock: dict[str, Any]) -> None:
    """Inputs outside the repository, which the lock names by ../, linked to where the copy will look for them."""
    for entry in lock.values():
        for path in (dep["path"] for dep in entry.get("deps", [])):
            if path.startswith("../"):
                link = Path(os.path.normpath(copy / path))
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    link.symlink_to((root / path).resolve())


def files_of(cache: Path, md5: str) -> dict[str, str]:
    """md5 of each file of a folder, from the listing in a DVC cache; empty when the cache does not hold it."""
    path = cache / "files" / "md5" / md5[:2] / md5[2:]
    return {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text())} if path.exists() else {}


def first_difference(root: Path, copy: Path, old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first file that differs inside the outputs, as far as both caches hold the listings."""
    for before, after in zip(old["outs"], new["outs"], strict=False):
        if before["md5"] != after["md5"]:
            left = files_of(root / ".dvc" / "cache", before["md5"])
            right = files_of(copy / ".dvc" / "cache", after["md5"])
            names = [name for name in sorted({*left, *right}) if left.get(name) != right.get(name)]
            return f" (first: {before['path']}/{names[0]})" if left and names else f" ({before['path']})"
    return ""


def report(root: Path, copy: Path, expected: dict[str, Any]) -> int:
    """Print each stage of the graph; returns how many differ."""
    found, different = read_lock(copy / "dvc.lock"), 0
    for address in read_graph(copy):
        old, new = expected.get(address), found.get(address)
        changed = differences(old, new)
        if not changed:
            print(f"{address:>18} | identical")
            continue
        different += 1
        outs = first_difference(root, copy, old, new) if old and new else ""
        print(f"{address:>18} | differs: {'; '.join(changed)}{outs}")
    return different


def reproduce(root: Path, revision: str) -> int:
    """Exit code: 0 when every stage is identical, 1 when one differs or fails. The copy is removed afterwards."""
    commit = git(root, "rev-parse", "--short", revision)
    copy = root / ".scratch" / "reproduce" / commit
    git(root, "worktree", "prune")
    if copy.exists():
        git(root, "worktree", "remove", "--force", str(copy))
    git(root, "worktree", "add", "--detach", "--force", str(copy), commit)
    try:
        expected = read_lock(copy / "dvc.lock")
        bring_inputs(root, copy, expected)
        surroundings = {**environment(copy), "TOKENMILL_TRACKING": "off", "PYTHONPATH": str(copy)}
        code = subprocess.run(
            [sys.executable, "-m", "dvc", "repro", "--force"], cwd=copy, env=surroundings, check=False
        ).returncode
        print(f"\n{commit}, run again:")
        different = report(root, copy, expected)
    finally:
        git(root, "worktree", "remove", "--force", str(copy))
        shutil.rmtree(copy, ignore_errors=True)
    return 1 if different or code else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make reproduce", description=__doc__)
    parser.add_argument("revision", nargs="?", default="HEAD")
    try:
        return reproduce(Path.cwd(), parser.parse_args().revision)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

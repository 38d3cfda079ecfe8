"""Two dvc.lock files, by content: `python -m flows.staleness.compare A B` exits 1 and names the stages when they differ."""

import argparse
import sys
from pathlib import Path
from typing import Any

from tasks.runner.lock import md5s, read_lock


def differences(expected: dict[str, Any] | None, found: dict[str, Any] | None) -> list[str]:
    """What differs between two entries of one stage: command, params, dependencies, outputs; empty when nothing does."""
    if expected is None or found is None:
        return ["is in one lock only"]
    parts = ["command"] if expected.get("cmd") != found.get("cmd") else []
    if expected.get("params") != found.get("params"):
        parts.append("params")
    for kind, word in (("deps", "dependency"), ("outs", "output")):
        left, right = md5s(expected, kind), md5s(found, kind)
        parts += [f"{word} {path}" for path in sorted({*left, *right}) if left.get(path) != right.get(path)]
    return parts


def main() -> int:
    """Exit code 0 when the locks have the same content."""
    parser = argparse.ArgumentParser(prog="python -m flows.staleness.compare", description=__doc__)
    for side in ("a", "b"):
        parser.add_argument(side, type=Path, help="a dvc.lock file")
    asked = parser.parse_args()
    try:
        left, right = read_lock(asked.a), read_lock(asked.b)
    except ValueError as error:
        parser.error(str(error))
    same = True
    for stage in dict.fromkeys([*left, *right]):
        found = differences(left.get(stage), right.get(stage))
        same = same and not found
        print(f"{stage:>18} | {'identical' if not found else '; '.join(found)}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())

"""`make mutants`: plant each bug in a copy of the project and run its room's tests; every bug must be caught.

    python -m tests.mutants [--room evaluate] [--share 3/10] [--jobs 2]

--share 3/10 takes the third tenth, so that ten runs plant all. A bug is caught when a test fails with it and passes without.
Exits 1 when one survives.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from flows.workspaces.smoke import copy_project
from tests.mutants.mutant import Mutant, read_mutants

FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?::.+?)(?: - .*)?$", re.MULTILINE)


def pytest(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The room's tests in this copy, up to the first that fails. Bytecode is not kept: a file that changed twice within a second
    at the same length would be taken for its older self."""
    surroundings = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-rfE", "--tb=no", "-p", "no:xdist", *arguments]
    return subprocess.run(command, cwd=root, env=surroundings, capture_output=True, text=True, check=False)


def verdict(mutant: Mutant, root: Path) -> str:
    """What the tests make of the bug: "" when they catch it, else why it counts as alive."""
    before = mutant.plant(root)
    try:
        planted = pytest(root, *mutant.tests)
    finally:
        (root / mutant.file).write_text(before)
    if planted.returncode == 0:
        return "survived"
    failed = FAILED.search(planted.stdout)
    if failed is None:  # the bug does not even import, or pytest itself has failed
        return "no test failed by name: " + (planted.stdout.strip().splitlines() or ["no output"])[-1]
    name = failed[1]
    if pytest(root, name).returncode:
        return f"{name} fails without the bug too"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("--room", default="", help="of these rooms alone, with blanks between them")
    parser.add_argument("--share", default="1/1", help="3/10: the third of ten parts")
    parser.add_argument("--jobs", type=int, default=2, help="copies at once")
    asked = parser.parse_args()
    part, parts = map(int, asked.share.split("/"))
    every, rooms = read_mutants(), asked.room.split()
    there = sorted({mutant.room for mutant in every})
    if unknown := [room for room in rooms if room not in there]:
        parser.error(f"no bug is planted in {', '.join(unknown)} (there are: {', '.join(there)})")
    mutants = [m for m in every if m.room in (rooms or there)][(part - 1) % parts :: parts]
    problems = [problem for mutant in mutants if (problem := mutant.problem(Path.cwd()))]
    if problems:
        print(*problems, sep="\n", file=sys.stderr)
        return 1
    alive = []
    with tempfile.TemporaryDirectory(prefix="tokenmill-mutants-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(min(asked.jobs, len(mutants))):
            (Path(folder) / str(number)).mkdir()
            copies.put(copy_project(Path.cwd(), Path(folder) / str(number)))

        def judge(mutant: Mutant) -> str:
            root = copies.get()
            try:
                return verdict(mutant, root)
            finally:
                copies.put(root)

        with ThreadPoolExecutor(asked.jobs) as pool:
            for mutant, found in zip(mutants, pool.map(judge, mutants), strict=True):
                print(f"{mutant}: {found or 'caught'}", flush=True)
                if found:
                    alive.append(mutant)
    print(f"{len(mutants) - len(alive)} of {len(mutants)} planted bugs caught")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())

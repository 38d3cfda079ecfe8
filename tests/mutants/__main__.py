"""`make mutants`: plant each bug in a copy of the project and run its room's tests; every bug must be caught.

    python -m tests.mutants [--room evaluate] [--share 3/10] [--jobs 2] [--keep] [--json]

--share 3/10 takes the third tenth, so that ten runs plant all. A bug is caught when a test fails with it and passes without.
The test that caught it last (caught.json, which --keep writes) is asked first, the whole room where that one passes: 6 s in
place of a minute. Exits 1 when one survives.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from flows.workspaces.smoke import copy_project
from tasks.runner.answer import add_json_option, print_json
from tests.mutants.mutant import CAUGHT, Mutant, read_mutants

SECONDS = 3600  # a bug may never end; a room's tests take minutes, under any load
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?::.+?)(?: - .*)?$", re.MULTILINE)


def pytest(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Tests in this copy. Bytecode is not kept: a file that changed twice within a second at the same length would be taken for
    its older self."""
    surroundings = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", *arguments]
    try:
        return subprocess.run(
            command, cwd=root, env=surroundings, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 2, f"no end within {SECONDS} s", "")


def first_failing(root: Path, *tests: str) -> tuple[str, str]:
    """(the first of these tests that fails, or ""; where none does by name, why not)."""
    done = pytest(root, "-x", "--as-given", "-p", "no:xdist", *tests)
    if done.returncode == 0:
        return "", "survived"
    failed = FAILED.search(done.stdout)
    if failed is None:  # the bug does not even import, or pytest itself has failed
        return "", "no test failed by name: " + (done.stdout.strip().splitlines() or ["no output"])[-1]
    return failed[1], ""


def verdict(mutant: Mutant, root: Path, known: str | None) -> tuple[str, str]:
    """(the test that fails with the bug, or ""; where none does, why not). known: the one to ask first."""
    before = mutant.plant(root)
    try:
        caught, why = first_failing(root, known) if known else ("", "")
        return (caught, why) if caught else first_failing(root, *mutant.files(root))
    finally:
        (root / mutant.file).write_text(before)


def failing_anyway(root: Path, tests: Iterable[str]) -> set[str]:
    """Those of the tests that fail without any bug, asked as with one. Raises RuntimeError where pytest cannot say."""
    done = pytest(root, "--as-given", "-p", "no:xdist", *sorted(set(tests)))
    if done.returncode not in (0, 1):
        raise RuntimeError("the tests that caught bugs cannot be run without them: " + done.stdout + done.stderr)
    return set(FAILED.findall(done.stdout))


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("--room", default="", help="of these rooms alone, with blanks between them")
    parser.add_argument("--share", default="1/1", help="3/10: the third of ten parts")
    parser.add_argument("--jobs", type=int, default=2, help="copies at once")
    parser.add_argument("--keep", action="store_true", help="write down which test caught each bug")
    add_json_option(parser)
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
    known: dict[str, str] = json.loads(CAUGHT.read_text())
    found: dict[Mutant, str] = {}
    reasons: dict[Mutant, str] = {}  # why none catches it
    said = sys.stderr if asked.json else sys.stdout
    with tempfile.TemporaryDirectory(prefix="tokenmill-mutants-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(max(min(asked.jobs, len(mutants)), 1)):
            (Path(folder) / str(number)).mkdir()
            copies.put(copy_project(Path.cwd(), Path(folder) / str(number)))

        def judge(mutant: Mutant) -> tuple[str, str]:
            root = copies.get()
            try:
                return verdict(mutant, root, known.get(str(mutant)))
            finally:
                copies.put(root)

        with ThreadPoolExecutor(asked.jobs) as pool:
            for mutant, (caught, why) in zip(mutants, pool.map(judge, mutants), strict=True):
                print(f"{mutant}: {why or 'caught by ' + caught}", file=said, flush=True)
                reasons[mutant] = why
                if caught:
                    found[mutant] = caught
        anyway = failing_anyway(copies.get(), found.values()) if found else set()
    for mutant, caught in [each for each in found.items() if each[1] in anyway]:
        reasons[mutant] = f"{caught} fails without the bug too"
        print(f"{mutant}: {reasons[mutant]}", file=said)
        del found[mutant]
    if asked.keep:
        names = {str(mutant) for mutant in every}
        kept = {**known, **{str(mutant): caught for mutant, caught in found.items()}}
        kept = {name: caught for name, caught in sorted(kept.items()) if name in names}
        CAUGHT.write_text(json.dumps(kept, indent=0, ensure_ascii=False) + "\n")
    print(f"{len(found)} of {len(mutants)} planted bugs caught", file=said)
    if asked.json:
        print_json(
            [{"bug": str(m), "room": m.room, "caught_by": found.get(m), "why_not": reasons[m] or None} for m in mutants]
        )
    return 0 if len(found) == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())

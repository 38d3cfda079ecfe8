"""`python -m benchmarks.run NAME`: hold the contests of benchmarks/NAME.py and append their rows to the results."""

import argparse
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.contest import hold
from benchmarks.rows import RESULTS, append, facts, row
from benchmarks.table import render
from tasks.runner.answer import add_json_option, print_json, stdout_to_stderr

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
)


def names() -> list[str]:
    """The benchmarks there are: files beside this one that have a `contests` function."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [file.stem for file in files if "\ndef contests(" in file.read_text()]


def run(name: str, threads: int, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The rows of one benchmark, each appended to folder/<name>.jsonl as soon as it is known."""
    rows = []
    for contest in import_module(f"benchmarks.{name}").contests(threads):
        for result in hold(contest):
            rows.append(row(name, result, contest.threads or threads, facts(contest.packages)))
            append(folder / f"{name}.jsonl", rows[-1:])
            print(render(rows[-1:], head=len(rows) == 1), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument("name", choices=names())
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="the same for every arm")
    add_json_option(parser)
    given = parser.parse_args()
    # Before the benchmark imports a library that reads them; arms in their own process inherit them.
    os.environ.update(dict.fromkeys(THREADS, str(given.threads)), TOKENIZERS_PARALLELISM="true")
    with stdout_to_stderr(given.json):
        rows = run(given.name, given.threads)
    if given.json:
        print_json(rows)


if __name__ == "__main__":
    main()

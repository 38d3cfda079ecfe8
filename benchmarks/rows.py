"""Results as rows that can be kept: with machine, threads, versions and commit, one JSON object a line."""

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.contest import Result
from tasks.runner.git import git

KEYS = (
    "bench", "impl", "peer", "gate", "metric", "unit", "value", "ratio_median", "ratio_min", "ratio_max", "runs",
    "machine", "threads", "versions", "commit", "date",
)  # fmt: skip
RESULTS = Path(__file__).parent / "results"
CLAIMS = "claims.jsonl"  # what studies found, whose rows flows/arena reads


def row(bench: str, result: Result, threads: int, facts: dict[str, Any]) -> dict[str, Any]:
    """One row with exactly KEYS, in that order; the ratios are None where there is no eligible peer."""
    ratios = result.ratios
    values = {
        "bench": bench,
        "impl": result.impl,
        "peer": result.peer,
        "gate": result.gate,
        "metric": result.metric,
        "unit": result.unit,
        "value": result.value,
        "ratio_median": median(ratios) if ratios else None,
        "ratio_min": min(ratios, default=None),
        "ratio_max": max(ratios, default=None),
        "runs": result.runs,
        "threads": threads,
        **facts,
    }
    return {key: values[key] for key in KEYS}


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows at the end of a results file, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(r) + "\n" for r in rows)


def read(folder: Path = RESULTS) -> Iterator[dict[str, Any]]:
    """All rows of a results folder, files by name, oldest first in each; `make claims` has a file of its own there. Raises
    ValueError naming file and line."""
    for path in sorted(path for path in folder.glob("*.jsonl") if path.name != CLAIMS):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not a row: {error}") from None


def environment_facts(packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """machine, versions, commit and date of a row measured now."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return {
        "machine": machine(),
        "versions": found,
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def machine() -> str:
    """CPU model, digest of its flags, cores, memory. Rows of different machines are not to be compared."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", info)
    flags = re.search(r"(?:flags|Features)\s*: (.*)", info)
    digest = hashlib.sha256(" ".join(sorted(flags[1].split())).encode()).hexdigest()[:8] if flags else "unknown"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = model[1] if model else platform.machine()
    return f"{name}, flags {digest}, {os.cpu_count()} cores, {memory:.0f} GiB"


def commit(root: Path = RESULTS.parent.parent) -> str:
    """The revision, with -dirty when the tree differs from it anywhere but in the results themselves."""
    changed = git(root, "status", "--porcelain", "--", ".", ":!benchmarks/results")
    return git(root, "rev-parse", "HEAD") + ("-dirty" if changed else "")

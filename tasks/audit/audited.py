"""An audited run of a stage: all that it touches is written down, and what lies outside its key fails it.

`make audit STAGE=filter`, or TOKENMILL_AUDIT=1 for any run; without it nothing here is called but one look at the environment.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm.config import ConfigError
from lm.settings import RUNNER
from tasks.audit.inotify import Watch
from tasks.audit.places import Places
from tasks.audit.traces import RECORDS, TRACES, Recorder, read_traces
from tasks.runner.auditing import Sections
from tasks.runner.graph import Entry
from tasks.runner.settings import AUDIT, TRACKING

# Variables that decide no number, by name, or by how they begin where that ends in _. Any other that a stage reads is outside
# its key: on what and on how many processes it runs, who starts and records it, and what every program is told.
DECIDE_NOTHING = [
    "TOKENMILL_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "GLOO_", "NCCL_", "TORCHELASTIC_", "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG", "OMP_", "GOMP_", "MKL_", "OPENBLAS_", "RAYON_", "CC", "CXX", "TRITON_INTERPRET",
    "TORCHINDUCTOR_CACHE_DIR", "NUMBA_CACHE_DIR", "SSL_CERT_DIR", "SSL_CERT_FILE",
    "DVC_", "MLFLOW_", "PREFECT_", "DO_NOT_TRACK",
    "PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "HOME", "USER", "LOGNAME", "HOSTNAME",
    "SHELL", "PWD", "TMPDIR", "TEMP", "TMP", "XDG_", "LANG", "LC_", "TERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CI",
]  # fmt: skip
NAMED = 5  # things that the line of a failed audit names


@contextmanager
def audited(entry: Entry, sections: Sections) -> Iterator[None]:
    """Context that audits the work of a stage. Raises ConfigError, after it, that names the first things outside the stage's
    key; writes .scratch/audit/<address>.json either way. sections: those of params.yaml that remember what was read of them."""
    if TRACKING.read() == "on" or RUNNER.is_given():
        raise ConfigError(
            f"{AUDIT.name}: needs TOKENMILL_TRACKING=off, since what records a run opens files, too, and no TOKENMILL_RUNNER"
        )
    traces = RECORDS / f"{entry.address}.traces"
    shutil.rmtree(traces, ignore_errors=True)
    traces.mkdir(parents=True)
    os.environ[TRACES] = str(traces.absolute())
    places = Places(entry, Path.cwd())
    watch = Watch(places.watched(), traces / "last")
    recorder = Recorder(traces)
    try:
        yield
    finally:
        recorder.stop()
        opened = watch.stop()
    found = read_traces(traces) | {("open", str(path)) for path in opened} | set(modules())
    record = judged(entry, places, sections.read, found)
    (RECORDS / f"{entry.address}.json").write_text(json.dumps(record, indent=1) + "\n")
    shutil.rmtree(traces)
    if outside := record["outside"]:
        more = f" and {len(outside) - NAMED} more" if len(outside) > NAMED else ""
        raise ConfigError(
            f"{entry.address}: outside its key: {', '.join(outside[:NAMED])}{more}; declare it in dvc.yaml or params.yaml, or "
            f"have the stage do without ({RECORDS / entry.address}.json has all)"
        )


def modules() -> Iterator[tuple[str, str]]:
    """The files of the modules that this process has imported, before the audit began, too."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and os.path.isabs(file):  # torch gives names to modules that are no files
            yield "open", file


def judged(entry: Entry, places: Places, read: Iterable[str], found: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The record: files by what they are to the stage, sections of params, variables, and what of all is outside the key."""
    files: dict[str, set[str]] = {}
    variables, outside = set(), []
    for how, name in sorted(found):
        if how == "variable":
            variables.add(name)
            continue
        kind, path = places.kind_of(name, listed=how == "list")
        files.setdefault(kind, set()).add(path)
    declared = {name.partition(".")[0] for name in entry.params}
    outside += sorted(files.get("outside", ()))
    outside += [f"the section {name} of params.yaml" for name in sorted(set(read) - declared)]
    outside += [f"the variable {name}" for name in sorted(variables) if not decides_nothing(name)]
    return {
        "stage": entry.address,
        "files": {kind: sorted(paths) for kind, paths in sorted(files.items())},
        "params": sorted(set(read)),
        "variables": sorted(variables),
        "outside": outside,
    }


def decides_nothing(variable: str) -> bool:
    """Whether a variable of the environment is among those that may differ between runs of one key."""
    return any(variable == name or (name[-1] == "_" and variable.startswith(name)) for name in DECIDE_NOTHING)

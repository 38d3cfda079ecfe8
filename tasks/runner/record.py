"""What made a stage's output, for whoever has to say later why another one differs: all that decided it, and where it ran.

It is written to data/timings/<stage>.record.json; libraries, machine and settings go to MLflow as tags too.
"""

import json
import os
import platform
import socket
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from lm.inputs.hashed import read_ignored, scan_dependency
from tasks.runner.git import is_dirty, revision
from tasks.runner.graph import Entry
from tasks.runner.key import file_md5

# The folders whose files are code; what else a stage depends on is data.
CODE = ("tasks", "lm", "kernels")
TAG = "made.by."
PARENT_RUN, FLOW_RUN = "TOKENMILL_PARENT_RUN", "TOKENMILL_FLOW_RUN"
LONGEST_TAG = 8000  # characters that MLflow takes


@dataclass(frozen=True)
class Record:
    """deps: md5 of each dependency. code: md5 of each file of those that are code. libraries and hardware are empty, and outs
    is, where they are not known: a lock file has only the outs, a process only the others."""

    stage: str
    key: str
    cmd: str
    deps: dict[str, str]
    params: dict[str, Any]
    code: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, str] = field(default_factory=dict)
    outs: dict[str, str] = field(default_factory=dict)

    def tags(self) -> dict[str, str]:
        """Libraries and hardware as tags of an MLflow run, which has the rest already."""
        found = {"libraries": self.libraries, "hardware": self.hardware}
        return {TAG + name: json.dumps(values, sort_keys=True)[:LONGEST_TAG] for name, values in found.items()}


def is_code(path: str) -> bool:
    """Whether a dependency is code of ours."""
    return Path(path).parts[0] in CODE


def made_by(entry: Entry, key: str, md5s: dict[str, str], params: dict[str, Any], machine: dict[str, str]) -> Record:
    """The record of the stage that this process has just run. machine: what of it, and of how it was used, decides bits."""
    ignored = read_ignored()
    files = [p for path in entry.deps if is_code(path) for p in scan_dependency(Path(path), ignored).files]
    sections = {name: params.get(name) for name in entry.params}
    code = {path.as_posix(): file_md5(path) for path in files}
    return Record(entry.address, key, entry.cmd, md5s, sections, code, libraries(), machine)


def libraries() -> dict[str, str]:
    """Versions of the distributions that this process has imported and that bear their module's name, as nearly all do, and of
    Python."""
    found = {"python": platform.python_version()}
    modules = list(sys.modules)  # at one instant: a thread of a library may import while this runs
    tops = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names
    spaces = {
        top for top in tops if getattr(sys.modules.get(top), "__file__", None) is None
    }  # such as ruamel of ruamel.yaml
    inside = {".".join(name.split(".")[:2]) for name in modules if name.partition(".")[0] in spaces}
    for name in sorted(tops | inside):
        try:
            found[name] = version(name)
        except (PackageNotFoundError, ValueError):
            continue
    return found


def process_tags() -> dict[str, str]:
    """What a record says of the process that makes it: revision, host, number, start, and the Prefect run it is part of."""
    process, here = psutil.Process(), Path.cwd()
    return {
        "git.revision": revision(here),
        "git.dirty": is_dirty(here),
        "prefect.flow_run_id": os.environ.get(FLOW_RUN, ""),
        "process.host": socket.gethostname(),
        "process.pid": str(process.pid),
        "process.started": str(process.create_time()),
    }

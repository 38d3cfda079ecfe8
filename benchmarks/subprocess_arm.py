"""An arm in a process of its own: its peak memory is its own, and a peer may use the peers' environment."""

import json
import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.contest import Arm, Sample

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers" / "bin" / "python"


def subprocess_arm(name: str, function: str, python: Path = Path(sys.executable), **arguments: Any) -> Arm:
    """The arm that calls `function`, given as "module:function", in a new process of `python`.

    It must return (values, answer), take and return what JSON can hold; `peak_memory_bytes` is added to the values.
    Raises ValueError when `python` does not exist.
    """

    def measure() -> Sample:
        if not python.exists():
            raise ValueError(f"{python}: no such interpreter; `make peers` makes the environment of the peers")
        command = [str(python), "-m", "benchmarks.subprocess_arm", function, json.dumps(arguments)]
        said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        values, answer = json.loads(said.splitlines()[-1])
        return Sample(values, answer)

    return Arm(name, measure)


def peak_memory() -> int:
    """The most bytes that this process had in memory.

    On Linux VmHWM: ru_maxrss begins at what the process that started this one had, which a fork hands down.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes


def main(function: str, arguments: str) -> None:
    """The other side: call the function, print [values, answer] as the last line."""
    module, name = function.split(":")
    values, answer = getattr(import_module(module), name)(**json.loads(arguments))
    print(json.dumps([{**values, "peak_memory_bytes": peak_memory()}, answer]))


if __name__ == "__main__":
    main(*sys.argv[1:])

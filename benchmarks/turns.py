"""An arm in a process of its own that lives on from one sample to the next.

For work whose start (imports, weights, torch.compile) costs more than a sample of it: `subprocess_arm` would pay that for each.
Between its turns the process waits, and takes no processor from the others.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from benchmarks.contest import Arm, Sample
from benchmarks.subprocess_arm import ROOT, peak_memory


class Turns:
    """What the arm's function gets: call it with each sample."""

    def __init__(self, answers: IO[str]) -> None:
        self._answers = answers

    def __call__(self, values: dict[str, float], answer: Any) -> None:
        """Hand over a sample, as JSON, with `peak_memory_bytes` so far; returns when another is wanted, else exits."""
        line = json.dumps([{**values, "peak_memory_bytes": peak_memory()}, answer])
        print(line, file=self._answers, flush=True)
        if not sys.stdin.readline():
            sys.exit()


@contextmanager
def persistent_arm(name: str, function: str, python: Path = Path(sys.executable), **arguments: Any) -> Iterator[Arm]:
    """The arm that gets its samples from `function`, given as "module:function", called once in a process of `python` as
    function(Turns, **arguments). The process starts with the first sample and ends with the context.

    Raises ValueError when `python` does not exist, RuntimeError when the process ends before its sample.
    """
    if not python.exists():
        raise ValueError(f"{python}: no such interpreter; `make peers` makes the environment of the peers")
    command = [str(python), "-m", "benchmarks.turns", function, json.dumps(arguments)]
    running: list[subprocess.Popen[str]] = []

    def measure() -> Sample:
        if running:
            _write_line(running[0])
        else:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            running.append(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))  # type: ignore[call-overload]
        said = running[0].stdout.readline()  # type: ignore[union-attr]
        if not said:
            raise RuntimeError(f"{name}: ended with exit code {running[0].wait()} before its sample")
        return Sample(*json.loads(said))

    try:
        yield Arm(name, measure)
    finally:
        for process in running:
            process.communicate()


def _write_line(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def main(function: str, arguments: str) -> None:
    """The other side. What the work prints goes to stderr: stdout is for samples."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, name = function.split(":")
    getattr(import_module(module), name)(Turns(answers), **json.loads(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])

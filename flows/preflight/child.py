"""The part of preflight that takes seconds, as a process of its own: edge contracts, the toy run, and the forecast.

`python -m flows.preflight.child REQUEST ANSWER`, both JSON files: {params, addresses, toys} and {findings, needs}.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.environment import environment
from flows.preflight.passed import FOLDER, home
from tasks.about.finding import Finding
from tasks.core.config import ConfigError

# Settings that would send the toy run to other processes and machines, or into their records.
# One thread: tensors are so small that a second one doubles the time.
ALONE = {"TOKENMILL_SHARD_WORKERS": "1", "TOKENMILL_TRACKING": "off", "TOKENMILL_THREADS": "1"}
AT = "rehearsing"  # what the line on each stage of the toy run begins with
REMOVED = (
    "TOKENMILL_RUNNER",
    "TOKENMILL_RANKS",
    "TOKENMILL_PARALLEL",
    "TOKENMILL_OFFLOAD",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
)


def rehearse_apart(
    root: Path, params: dict[str, Any], addresses: list[str], say: Callable[[str], None]
) -> tuple[list[Finding], dict[str, Any]]:
    """Findings and needs; `say` gets a line at each stage. In a process of its own, whose memory goes with it, and in a folder
    that is removed."""
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root / FOLDER, prefix="toy-") as name:
        request, answer = Path(name) / "request.json", Path(name) / "answer.json"
        request.write_text(json.dumps({"params": params, "addresses": addresses, "toys": str(home(root) / "toys")}))
        surroundings = {key: value for key, value in environment(root).items() if key not in REMOVED}
        surroundings |= {
            **ALONE,
            "TMPDIR": name,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")])),
        }
        command = [sys.executable, "-m", "flows.preflight.child", str(request), str(answer)]
        printed = []
        with subprocess.Popen(
            command, cwd=root, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            for line in process.stdout or []:
                if line.startswith(AT):
                    say(line.rstrip())
                printed.append(line)
        if process.returncode or not answer.exists():
            log = root / FOLDER / "rehearsal.log"
            log.write_text("".join(printed))
            last = ("".join(printed).strip().splitlines() or ["it said nothing"])[-1]
            return [Finding("the toy run", f"ended with {process.returncode}: {last}", f"see {log}")], {}
        said = json.loads(answer.read_text())
    return [Finding(**finding) for finding in said["findings"]], said["needs"]


def main() -> None:
    """Answer the request, in the project's root."""
    request, answer = map(Path, sys.argv[1:3])
    asked = json.loads(request.read_text())
    from flows.preflight.slow_checks import rehearsed  # imports torch

    Path(asked["toys"]).mkdir(parents=True, exist_ok=True)
    found, needs = rehearsed(
        Path.cwd(), asked["params"], asked["addresses"], request.parent / "toy", Path(asked["toys"])
    )
    answer.write_text(json.dumps({"findings": [vars(finding) for finding in found], "needs": needs}))


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(str(error))

"""The part of preflight that takes seconds, as a process of its own: edge contracts, the toy run, and the forecast.

`python -m flows.preflight.child REQUEST ANSWER`, both JSON files: {params, addresses, toys} and {findings, needs}.
"""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.environment import environment
from flows.forecast.imports import import_training
from flows.preflight.rehearsal_records import FOLDER, records_folder
from flows.staleness.toy_folders import toy_folder
from tasks.about.finding import Finding, one_line
from tasks.core.config import ConfigError
from tasks.runner.own import keep_compiled_code

# Settings that would send the toy run to other processes and machines, or into their records.
# One thread: tensors are so small that a second one doubles the time.
ALONE = {"TOKENMILL_SHARD_WORKERS": "1", "TOKENMILL_TRACKING": "off", "TOKENMILL_THREADS": "1"}
AT = "rehearsing"  # what the line on each stage of the toy run begins with
# Collections of young objects before all are walked once, in place of 10: among them is what torch has imported, which takes
# 0.25 of the 2.0 s of import_training.
SELDOM = 1000
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
    root: Path,
    params: dict[str, Any],
    addresses: list[str],
    say: Callable[[str], None],
    meanwhile: Callable[[], None],
) -> tuple[list[Finding], dict[str, Any]]:
    """Findings and needs; `say` gets a line at each stage, `meanwhile` is called once it is begun. In a process of its own,
    whose memory goes with it, and in a folder that is removed. Raises ConfigError where there is no place for one."""
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    with toy_folder(root) as (place, lock):
        request, answer = place / "request.json", place / "answer.json"
        asked = {"params": params, "addresses": addresses, "toys": str(records_folder(root) / "toys")}
        try:
            request.write_text(json.dumps(asked))
        except OSError as error:
            return [
                Finding(str(place.parent), f"no toy run: {one_line(error)}", "make room, or name another TMPDIR")
            ], {}
        surroundings = {key: value for key, value in environment(root).items() if key not in REMOVED}
        surroundings |= {
            **ALONE,
            "TMPDIR": str(place),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")])),
        }
        command = [sys.executable, "-m", "flows.preflight.child", str(request), str(answer)]
        printed = []
        with subprocess.Popen(
            command,
            cwd=root,
            env=surroundings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=[lock],
        ) as process:
            meanwhile()
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
    keep_compiled_code()
    gc.set_threshold(*gc.get_threshold()[:2], SELDOM)
    imports = import_training()
    from flows.preflight.slow_checks import run_slow_checks  # imports torch

    Path(asked["toys"]).mkdir(parents=True, exist_ok=True)
    found, needs = run_slow_checks(
        Path.cwd(), asked["params"], asked["addresses"], request.parent / "toy", Path(asked["toys"]), imports
    )
    answer.write_text(json.dumps({"findings": [vars(finding) for finding in found], "needs": needs}))


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(str(error))

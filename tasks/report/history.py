"""The runs that ended in this folder: when, of what, how, and what every current stage measured; data/report/runs.jsonl.

The page and the table compare the last with the one before. Nothing else is kept by them, and nothing is decided by it.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lm.files import write_text
from tasks.report.read import Stage
from tasks.report.words import ABSENT
from tasks.runner.json_lines import lines_of
from tasks.runner.names import flatten

FILE = Path("data") / "report" / "runs.jsonl"
KEPT = 200  # runs that the file holds at most
FINISHED = "finished"


@dataclass(frozen=True)
class Run:
    """name: the preset and what differs from it. outcome: FINISHED, or in words where and how it ended. figures: the metrics of
    each current stage by its address."""

    name: str
    date: str
    machine: str
    outcome: str
    params: dict[str, Any]
    figures: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.outcome == FINISHED


def metrics_by_stage(stages: Iterable[Stage]) -> dict[str, dict[str, float]]:
    """The metrics of the stages that are current."""
    return {stage.name: stage.metrics for stage in stages if stage.current}


def read_runs(root: Path) -> list[Run]:
    """The runs, oldest first; none where the file is not there. A line that a kill has cut off is passed over."""
    path = root / FILE
    found = []
    for line in lines_of(path.read_text(encoding="utf-8")) if path.exists() else []:
        try:
            found.append(Run(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue
    return found


def add_run(root: Path, run: Run) -> None:
    """Put a run at the end of the file."""
    lines = [json.dumps(asdict(each), sort_keys=True) + "\n" for each in [*read_runs(root), run][-KEPT:]]
    write_text(root / FILE, "".join(lines))


def run_before(runs: list[Run], params: dict[str, Any], figures: dict[str, dict[str, float]]) -> Run | None:
    """The last finished run that had other parameters or other figures than there are now; None where there was none."""
    others = [run for run in runs if run.finished and (run.params != params or run.figures != figures)]
    return others[-1] if others else None


def params_changed(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(key, value before, value now) of each parameter that differs; `-` where there was or is none."""
    old, new = flatten(before), flatten(now)
    return [(k, old.get(k, ABSENT), new.get(k, ABSENT)) for k in {**old, **new} if old.get(k) != new.get(k)]

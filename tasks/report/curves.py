"""The curves of each stage as CSV, which `dvc plots` draws (dvc.yaml, plots): data/report/curves/<stage>.csv."""

import csv
import io
from pathlib import Path

from lm.files import write_text
from tasks.report.read import Stage

FOLDER = Path("data") / "report" / "curves"


def write_curves(root: Path, stages: list[Stage]) -> None:
    """Write the points of every stage that is up to date, a row a step; any other file is removed."""
    drawn = {f"{stage.name}.csv": stage for stage in stages if stage.curves}
    for old in (root / FOLDER).glob("*.csv"):
        if old.name not in drawn:
            old.unlink()
    for name, stage in drawn.items():
        write_text(root / FOLDER / name, as_csv(stage))


def as_csv(stage: Stage) -> str:
    """Column `step` and one for each curve, empty where a step has no point of it."""
    rows: dict[float, dict[str, float]] = {}
    for name, points in stage.curves.items():
        for step, value in points:
            rows.setdefault(int(step), {})[name] = value
    text = io.StringIO()
    table = csv.DictWriter(text, ["step", *stage.curves], lineterminator="\n")
    table.writeheader()
    table.writerows({"step": step, **rows[step]} for step in sorted(rows))
    return text.getvalue()

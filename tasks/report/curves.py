"""The curves of each stage as CSV, which `dvc plots` draws (dvc.yaml, plots): data/report/curves/<stage>.csv."""

import csv
import io
from pathlib import Path

from lm.files import write_text
from tasks.report.read import Stage

FOLDER = Path("data") / "report" / "curves"


def write_curves(root: Path, stages: list[Stage]) -> None:
    """Write the points of every stage that is up to date, a row a step; a file of a stage that is not is removed."""
    for stage in stages:
        path = root / FOLDER / f"{stage.name}.csv"
        if stage.curves:
            write_text(path, as_csv(stage))
        else:
            path.unlink(missing_ok=True)


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

"""What a run leaves in the Prefect UI: the plan before anything runs, and at the end the figures and where to look."""

import os
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact

from flows.params.compose import changes
from flows.servers.prefect_and_mlflow import AS_TRAINING, MLFLOW_URL, REPORT_URL
from flows.staleness.plan import PlannedStage, as_markdown
from tasks.report.read import read_stages
from tasks.report.words import ABSENT, number, percent, size
from tasks.runner.tracking import experiment_of

FIGURES = ("accuracy", "bits_per_byte", "size_bytes", "parameters")


def show_plan(plan: list[PlannedStage], before: dict[str, Any], params: dict[str, Any]) -> None:
    """The artifact `plan`: which stages may run and why, and which parameters are not what they were."""
    text = as_markdown(plan)
    if changed := changes(before, params):
        rows = [f"| `{key}` | {_cell(was)} | {_cell(now)} |" for key, was, now in changed]
        text += "\n\n" + "\n".join(["| parameter | was | now |", "|---|---|---|", *rows])
    create_markdown_artifact(text, key="plan", description="which stages may run, and why")


def metrics_by_model(root: Path) -> dict[str, float]:
    """The figures of each model that is current, by model and name, as in `rl.accuracy`."""
    models = {stage.model: stage.metrics for stage in read_stages(root) if stage.model and stage.current}
    return {
        f"{model}.{name}": float(found[name]) for model, found in models.items() for name in FIGURES if name in found
    }


def show_results(root: Path, page: Path, run: str | None) -> list[str]:
    """The artifact `report`: links and the figures of each model. Returns its paragraphs."""
    paragraphs = [*links(page, run), metrics_table(root)]
    create_markdown_artifact("\n\n".join(paragraphs), key="report", description="what came out, and where to look")
    return paragraphs


def metrics_table(root: Path) -> str:
    """The models of the report as a table."""
    rows = ["| model | parameters | size | bits/byte | accuracy |", "|---|---:|---:|---:|---:|"]
    for stage in read_stages(root):
        if stage.model and stage.current:
            m = stage.metrics
            bits = f"{m['bits_per_byte']:.3f}" if "bits_per_byte" in m else ABSENT
            cells = [
                stage.model,
                number(m.get("parameters")),
                size(m.get("size_bytes")),
                bits,
                percent(m.get("accuracy")),
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) if len(rows) > 2 else "No model was evaluated."


def links(page: Path, run: str | None) -> list[str]:
    """A line for the report and one for the curves: a link where `make ui` serves them, else the path and the run's id."""
    # a browser does not follow a file:// link of a page that came by http
    served = os.environ.get(REPORT_URL)
    lines = [f"Report of the newest run: [{served}]({served}), on disk `{page}`" if served else f"Report: `{page}`"]
    if run:
        served, experiment = os.environ.get(MLFLOW_URL), experiment_of(run)
        url = f"{served}/#/experiments/{experiment}/runs/{run}?{AS_TRAINING}"
        lines.append(f"Parameters and curves: [MLflow]({url})" if served and experiment else f"MLflow run: `{run}`")
    return lines


def _cell(text: str) -> str:
    """A value as a cell: on one line, and what would end the cell or the code is neither."""
    return "`" + " ".join(text.split()).replace("|", "\\|").replace("`", "'")[:200] + "`"

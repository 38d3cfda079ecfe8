"""A run of the pipeline records its stages itself: a real flow over a toy stage, which never imports mlflow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.test_stage import project  # noqa: F401 - a fixture
from tests.flows.small_graph import run_flow, surroundings
from tests.system.core.test_tracking import runs_of


@pytest.fixture
def repository(project: Path) -> Path:  # noqa: F811
    (project / ".gitignore").write_text("/data/toy\n/data/timings\n/data/keys\n.scratch\n/mlflow\n__pycache__\n")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=project, env=surroundings(project), check=True)
    return project


def test_the_flow_records_its_stages(repository: Path, server: dict[str, str]) -> None:
    code, printed = run_flow(repository, {**server, "TOKENMILL_TRACKING": "on"})
    assert code == 0 and "warning" not in printed, printed
    by_name = {run.info.run_name: run for run in runs_of(repository)}
    parent, toy = by_name.pop("pipeline"), by_name.pop("toy")
    assert not by_name and parent.info.status == toy.info.status == "FINISHED"
    assert toy.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert toy.data.tags["prefect.flow_run_id"] == parent.data.tags["prefect.flow_run_id"] != ""
    assert toy.data.tags["process.pid"] != parent.data.tags["process.pid"]
    assert toy.data.metrics["final.loss"] == 0.25 and toy.data.params == {"toy.steps": "10"}
    libraries = json.loads(toy.data.tags["made.by.libraries"])
    assert "psutil" in libraries and "mlflow" not in libraries, "the stage recorded for itself"

"""`make ui` as its user sees it: a run started in the browser, and the pages that show it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.environment import environment
from flows.workspaces.smoke import copy_project
from tests.flows.browser import Browser, browser, logged_in, missing
from tests.flows.served import ENDED, Served, make_ui, with_tiny_preset
from tests.processes import wait_for
from tests.project import DATA_STAGES, ROOT

UP_TO_SFT = (*DATA_STAGES, "pretrain", "sft")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("TOKENMILL_SCREENSHOTS", tmp_path / "pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.skipif(missing() is not None, reason=f"no browser: {missing()}")
def test_a_run_started_in_the_browser_completes_and_its_curves_show(tmp_path: Path, pictures: Path) -> None:
    project = with_tiny_preset(tmp_path / "project")
    stages = read_lock(project)
    with make_ui(project) as served, browser(tmp_path / "profile", pictures) as page:
        page.log_in(served.prefect, served.password)
        submit_tiny(page)
        page.until(served.runs, "a run to be made")
        page.rest()
        run = await_run(served)
        assert (run["state_name"], run["parameters"]["preset"]) == ("Completed", "tiny"), served.log.read_text()[-5000:]
        see_run(page, served, run)
        see_curves(page, served, run)
        assert page.reached() == set()
    assert processes_in(project) == []
    assert read_lock(project) != stages, "the run left dvc.lock as it was"
    assert set(read_lock(project)) >= {"ingest", "pretrain", "quantize", "evaluate@quantize"}
    alone = read_lock(by_dvc_alone(project, tmp_path / "plain"))
    assert {name: alone[name] for name in UP_TO_SFT} == {name: read_lock(project)[name] for name in UP_TO_SFT}


def submit_tiny(page: Browser) -> None:
    """From the first page to a submitted form, by clicks alone."""
    page.click("a", "Deployments")
    page.click("a", "tokenmill")
    page.see("Ready", "pipeline", "No runs found")
    page.picture("1-deployment")
    page.click("button", "Run")
    page.click("[role=menuitem]", "Custom run")
    page.see("preset", "overrides", "targets", "force")
    page.click(preset := "button[aria-label='Select preset' i]")
    page.click("[role=option]", "tiny")
    assert page.find(preset).text == "tiny"
    page.gone("[role=option]")
    page.picture("2-form")
    page.click("button[type=submit]", "Submit")


def await_run(served: Served) -> dict:
    """The one run of the deployment, once it has ended."""

    def ended() -> list[dict]:
        runs = served.runs()
        return runs if runs and runs[0]["state_type"] in ENDED else []

    [run] = wait_for(ended, explain=lambda: served.log.read_text()[-5000:], every=0.5)
    return run


def see_run(page: Browser, served: Served, run: dict) -> None:
    page.open(served.prefect)
    page.click("a", "Runs")
    page.find("a", run["name"])
    page.see("1 Flow run", "Completed")
    page.picture("3-runs")
    page.click("a", run["name"])
    page.see(run["name"], "Completed", "tokenmill")
    page.click("[role=tab]", "Task Runs")
    page.see("pretrain")
    page.picture("4-run")


def see_curves(page: Browser, served: Served, flow_run: dict) -> None:
    """The experiment's list with the run and its stages, then the curves of pretrain."""
    mlflow = served.mlflow
    experiment = served.ask(f"{mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name=tokenmill")["experiment"]
    runs = served.ask(f"{mlflow}/api/2.0/mlflow/runs/search", {"experiment_ids": [experiment["experiment_id"]]})["runs"]
    tags = {run["info"]["run_id"]: {tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in runs}
    parents = [run for run, tag in tags.items() if "mlflow.parentRunId" not in tag]
    assert [tags[run].get("prefect.flow_run_id") for run in parents] == [flow_run["id"]]
    assert {run["info"]["status"] for run in runs} == {"FINISHED"}
    [pretrain] = [run for run in runs if run["info"]["run_name"] == "pretrain"]
    assert tags[pretrain["info"]["run_id"]]["mlflow.parentRunId"] == parents[0]
    page.open(logged_in(mlflow, served.password))  # once: the browser then answers by itself, as after its own question
    page.see("MLflow")
    page.open(f"{mlflow}/#/experiments/{experiment['experiment_id']}/runs?workflowType=machine_learning")
    page.see(flow_run["name"], f"{len(runs)} matching runs")
    page.click("[class*=ag-cell] button")  # shows the children
    page.find("a", "pretrain")
    page.picture("5-experiment")
    page.click("a", "pretrain")
    page.click("[role=tab]", "Model metrics")
    page.find("input[placeholder^='Search']").send_keys("^loss$")
    page.see("pretrain (loss)", "Step")
    page.find(".js-plotly-plot path.js-line")
    points = served.ask(
        f"{mlflow}/api/2.0/mlflow/metrics/get-history?run_id={pretrain['info']['run_id']}&metric_key=loss"
    )
    losses = [point["value"] for point in points["metrics"]]
    assert len(losses) > 2
    assert losses[-1] < losses[0]
    page.picture("6-curves")


def by_dvc_alone(project: Path, copy: Path) -> Path:
    """A second copy with the same params, brought up to date as far as SFT by `dvc repro`: another way to what should be one
    lock (CI goes it to the end)."""
    copy_project(ROOT, copy)
    shutil.copyfile(project / "params.yaml", copy / "params.yaml")
    surroundings = {**environment(copy), "TOKENMILL_TRACKING": "off", "PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "-q", "sft"], cwd=copy, env=surroundings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return copy


def processes_in(folder: Path) -> list[int]:
    """The processes whose working directory is this folder or below it (Linux)."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.resolve(strict=True).is_relative_to(folder):
                found.append(int(link.parent.name))
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return found


def read_lock(project: Path) -> dict:
    """The stages of dvc.lock, none when there is no such file."""
    path = project / "dvc.lock"
    return yaml.safe_load(path.read_text())["stages"] if path.exists() else {}

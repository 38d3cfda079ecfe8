"""`make ui` as its user sees it: a run started in the browser, and the pages that show it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import yaml

from flows.environment import environment
from flows.smoke import copy_project
from tests.flows.browser import Browser, browser, missing
from tests.project import ROOT

# A busy machine of two cores: starting takes 10 to 60 s there, the smoke preset a minute or two.
START_SECONDS, RUN_SECONDS = 180, 900


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("TOKENMILL_SCREENSHOTS", tmp_path / "pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.skipif(missing() is not None, reason=f"no browser: {missing()}")
def test_a_run_started_in_the_browser_completes_and_its_curves_show(tmp_path: Path, pictures: Path) -> None:
    project = copy_project(ROOT, tmp_path / "project")
    stages = read_lock(project)
    with make_ui(project) as (prefect, mlflow, log), browser(tmp_path / "profile", pictures) as page:
        submit_smoke(page, prefect)
        run = await_run(prefect, log)
        assert (run["state_name"], run["parameters"]["preset"]) == ("Completed", "smoke"), log.read_text()[-5000:]
        see_run(page, prefect, run)
        see_curves(page, mlflow, run["id"])
        assert page.reached() == set()
    assert processes_in(project) == []
    assert read_lock(project) != stages, "the run left dvc.lock as it was"
    assert set(read_lock(project)) >= {"ingest", "pretrain", "quantize", "evaluate@quantize"}
    assert read_lock(project) == read_lock(by_dvc_alone(project, tmp_path / "plain"))


def submit_smoke(page: Browser, prefect: str) -> None:
    """From the first page to a submitted form, by clicks alone."""
    page.open(prefect)
    page.click("a", "Deployments")
    page.click("a", "tokenmill")
    page.see("Ready", "pipeline", "No runs found")
    page.picture("1-deployment")
    page.click("button", "Run")
    page.click("[role=menuitem]", "Custom run")
    page.see("preset", "overrides", "targets", "force")
    page.click(preset := "button[aria-label='Select preset' i]")
    page.click("[role=option]", "smoke")
    assert page.find(preset).text == "smoke"
    page.gone("[role=option]")
    page.picture("2-form")
    page.click("button[type=submit]", "Submit")


def await_run(prefect: str, log: Path) -> dict:
    """The one run of the deployment, once it has ended."""
    deadline = time.monotonic() + RUN_SECONDS
    while True:
        runs = post(f"{prefect}/api/flow_runs/filter", {})
        if runs and runs[0]["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            assert len(runs) == 1
            return runs[0]
        assert time.monotonic() < deadline, f"no end after {RUN_SECONDS} s: {runs}\n{log.read_text()[-5000:]}"
        time.sleep(0.5)


def see_run(page: Browser, prefect: str, run: dict) -> None:
    page.click("a", "Runs")
    page.find("a", run["name"])
    page.see("1 Flow run", "Completed")
    page.picture("3-runs")
    page.click("a", run["name"])
    page.see(run["name"], "Completed", "tokenmill")
    page.click("[role=tab]", "Task Runs")
    page.see("pretrain")
    page.picture("4-run")


def see_curves(page: Browser, mlflow: str, flow_run: str) -> None:
    """The experiment's list with the run and its stages, then the curves of pretrain."""
    experiment = ask(f"{mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name=tokenmill")["experiment"]
    runs = post(f"{mlflow}/api/2.0/mlflow/runs/search", {"experiment_ids": [experiment["experiment_id"]]})["runs"]
    tags = {run["info"]["run_id"]: {tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in runs}
    parents = [run for run, tag in tags.items() if "mlflow.parentRunId" not in tag]
    assert [tags[run].get("prefect.flow_run_id") for run in parents] == [flow_run]
    assert {run["info"]["status"] for run in runs} == {"FINISHED"}
    [pretrain] = [run for run in runs if run["info"]["run_name"] == "pretrain"]
    assert tags[pretrain["info"]["run_id"]]["mlflow.parentRunId"] == parents[0]
    page.open(f"{mlflow}/#/experiments/{experiment['experiment_id']}/runs?workflowType=machine_learning")
    page.see("pipeline", f"{len(runs)} matching runs")
    page.click("[class*=ag-cell] button")  # shows the children
    page.find("a", "pretrain")
    page.picture("5-experiment")
    page.click("a", "pretrain")
    page.click("[role=tab]", "Model metrics")
    page.find("input[placeholder^='Search']").send_keys("^loss$")
    page.see("pretrain (loss)", "Step")
    page.find(".js-plotly-plot path.js-line")
    points = ask(f"{mlflow}/api/2.0/mlflow/metrics/get-history?run_id={pretrain['info']['run_id']}&metric_key=loss")
    losses = [point["value"] for point in points["metrics"]]
    assert len(losses) > 2
    assert losses[-1] < losses[0]
    page.picture("6-curves")


def by_dvc_alone(project: Path, copy: Path) -> Path:
    """A second copy with the same params, brought up to date by `dvc repro`: another way to what should be one lock."""
    copy_project(ROOT, copy)
    shutil.copyfile(project / "params.yaml", copy / "params.yaml")
    surroundings = {**environment(copy), "TOKENMILL_TRACKING": "off", "PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "-q"], cwd=copy, env=surroundings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return copy


@contextmanager
def make_ui(project: Path) -> Iterator[tuple[str, str, Path]]:
    """The addresses of the Prefect and MLflow pages, and the log, of `make ui` on free ports; Ctrl-C at the end."""
    log = project.parent / "ui.log"
    surroundings = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "TOKENMILL_"))}
    surroundings |= {"TOKENMILL_PREFECT_PORT": "0", "TOKENMILL_MLFLOW_PORT": "0", "PYTHONPATH": str(project)}
    with log.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.ui"],
            cwd=project,
            env=surroundings,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (ready := re.search(r"Prefect +(http\S+)[\s\S]*MLflow +(http\S+)[\s\S]*Ctrl-C", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield ready[1], ready[2], log
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()[-5000:]
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


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


def ask(url: str) -> dict:
    with urlopen(url, timeout=30) as response:
        return json.load(response)


def post(url: str, body: dict) -> dict:
    with urlopen(Request(url, json.dumps(body).encode(), {"content-type": "application/json"}), timeout=30) as response:
        return json.load(response)

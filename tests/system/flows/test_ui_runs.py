"""`make ui` with a password, as its user sees it: the typed form, the plan, approval, a run that fails and one that is cancelled.

One server for all of them. Each test starts runs of its own in one copy of the project; the model is trained once, by the form.
"""

import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from selenium.webdriver import ActionChains, Keys

from flows.pipeline.form import as_overrides
from flows.servers.password import header
from flows.servers.prefect_and_mlflow import HOST
from tasks.core.config import read_params
from tests.flows.browser import Browser, browser, logged_in, missing
from tests.flows.served import EXTRA, Served, make_ui, with_tiny_preset
from tests.processes import bytes_of, files_in
from tests.project import TINY

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"no browser: {missing()}")
PASSWORD = f"correct horse {secrets.token_hex(6)}"  # stands in no file, this one included
DESK, TELEPHONE = (1280, 1000), (390, 844)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tiny_preset(tmp_path_factory.mktemp("ui") / "project")


@pytest.fixture(scope="module")
def served(project: Path) -> Iterator[Served]:
    with make_ui(project, PASSWORD) as running:
        yield running


@pytest.fixture(scope="module")
def page(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A window that is logged in."""
    folder = tmp_path_factory.mktemp("browser")
    pictures = Path(os.environ.get("TOKENMILL_SCREENSHOTS", folder / "pictures"))
    pictures.mkdir(parents=True, exist_ok=True)
    with browser(folder / "profile", pictures) as window:
        window.resize(*DESK)
        window.log_in(served.prefect, PASSWORD)
        yield window


@pytest.fixture(scope="module")
def trained(page: Browser, served: Served) -> dict[str, Any]:
    """The run that the form started, once it has ended."""
    page.click("a", "Deployments")
    page.click("a", "tokenmill")
    page.click("button", "Run")
    page.click("[role=menuitem]", "Custom run")
    page.see("a file of presets/", "stages to bring up to date", "somebody decides")
    choose(page, "preset", "tiny")
    choose(page, "targets", "pretrain")
    page.click("[role=tab]", "a number")
    page.find("input[type=number]").send_keys("3")
    page.click("[role=tab]", "pretrain")
    page.click("[role=tab]", "lion")
    page.labelled("lr (Optional)").send_keys("0.002")
    choose(page, "within_documents", "false")
    page.picture("form")
    page.resize(*TELEPHONE)
    page.picture("form-narrow")
    assert_fits(page)
    page.resize(*DESK)
    page.click("button[type=submit]", "Submit")
    [run] = page.until(served.runs, "a run to be made")
    page.rest()
    return served.until(run["id"], "COMPLETED")


def choose(page: Browser, field: str, option: str) -> None:
    """Choose from the list of a field; a list of several stays open until Escape."""
    page.click(f"button[aria-label='Select {field}']")
    page.click("[role=option]", option)
    if field == "targets":
        ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()
    page.gone("[role=option]")


def assert_fits(page: Browser) -> None:
    """Nothing is wider than the window."""
    width, window = page.driver.execute_script("return [document.body.scrollWidth, window.innerWidth]")
    assert width <= window


def menu(page: Browser, served: Served, number: str, *words: str) -> None:
    """Open the page of a run, and what its menu offers under this word."""
    page.open(f"{served.prefect}/v2/runs/flow-run/{number}")
    page.see(*words[:-1])
    page.click("button", "Open menu")
    page.click("[role=menuitem]", words[-1])


def decide(page: Browser, served: Served, number: str, decision: str) -> dict[str, Any]:
    """Resume a paused run with a decision; the run once it has ended."""
    menu(page, served, number, "Paused", "Resume")
    page.see("Publish data/pretrain as tokenmill@champion?", "Report of the newest run")
    page.picture("approval")
    page.resize(*TELEPHONE)
    page.picture("approval-narrow")
    page.resize(*DESK)
    choose(page, "Decision", decision)
    page.click("[role=dialog] button", "Resume")
    return served.until(number, "COMPLETED")


def champion(served: Served) -> dict[str, Any] | None:
    """The registered version that the alias points to."""
    versions = served.ask(f"{served.mlflow}/api/2.0/mlflow/registered-models/get?name=tokenmill")["registered_model"]
    aliases = {alias["alias"]: alias["version"] for alias in versions.get("aliases", [])}
    if "champion" not in aliases:
        return None
    url = f"{served.mlflow}/api/2.0/mlflow/model-versions/get?name=tokenmill&version={aliases['champion']}"
    return served.ask(url)["model_version"]


def test_the_form_submits_what_was_set_and_nothing_else(trained: dict[str, Any], project: Path) -> None:
    asked = trained["parameters"]
    assert (asked["preset"], asked["targets"], asked["seed"], asked["publish"]) == ("tiny", ["pretrain"], 3, "no")
    [line] = as_overrides(asked["sections"])
    assert line == 'pretrain={"optimizer": {"name": "lion", "lr": 0.002}, "within_documents": false}'
    params = read_params(project / "params.yaml")
    assert params["pretrain"]["optimizer"] == {"name": "lion", "lr": 0.002}
    assert params["pretrain"]["model"]["width"] == TINY["pretrain"]["model"]["width"] and params["seed"] == 3
    assert params["pretrain"]["within_documents"] is False
    assert trained["name"] == "tiny seed=3 pretrain.optimizer=lion pretrain.lr=0.002 and 1 more"


def test_the_plan_stands_before_anything_runs_and_progress_and_links_follow(
    trained: dict[str, Any], page: Browser, served: Served
) -> None:
    found = served.artifacts(trained["id"])
    assert "| pretrain | may run |" in found["plan"]["data"]
    assert "| `pretrain.optimizer.name` | `muon` | `lion` |" in found["plan"]["data"]
    assert found["plan"]["created"] < min(run["start_time"] for run in task_runs(served, trained["id"]))
    assert (found["progress-pretrain"]["data"], found["progress-pretrain"]["description"]) == (100.0, "pretrain: ran")
    assert (
        f"[MLflow]({served.mlflow}/#/experiments/" in found["report"]["data"]
        and served.report in found["report"]["data"]
    )
    for name, size in (("plan", DESK), ("plan-narrow", TELEPHONE)):
        page.resize(*size)
        page.open(f"{served.prefect}/v2/artifacts/artifact/{found['plan']['id']}")
        page.see("ingest", "may run", "pretrain.optimizer.name")
        page.picture(name)
    page.resize(*DESK)
    page.open(f"{served.prefect}/v2/runs/flow-run/{trained['id']}?tab=Artifacts")
    page.see("progress-pretrain", "what came out, and where to look")
    page.picture("artifacts")


def task_runs(served: Served, number: str) -> list[dict[str, Any]]:
    return served.ask(f"{served.prefect}/api/task_runs/filter", {"flow_runs": {"id": {"any_": [number]}}})


def test_the_curves_and_the_report_ask_for_the_password(trained: dict[str, Any], page: Browser, served: Served) -> None:
    link = served.artifacts(trained["id"])["report"]["data"].split("[MLflow](")[1].split(")")[0]
    for address in (served.mlflow, served.report):
        with pytest.raises(AssertionError, match="401"):
            Served(**{**vars(served), "password": None}).ask(address)
    page.open(logged_in(served.mlflow, PASSWORD))  # once: the browser then answers by itself, as after its own question
    page.see("MLflow")
    page.open(link)
    page.see("tiny seed=3", "Model metrics")
    page.picture("mlflow-run")
    experiment = link.split("/experiments/")[1].split("/")[0]
    page.open(f"{served.mlflow}/#/experiments/{experiment}/runs?workflowType=machine_learning")
    page.click("[class*=ag-cell] button")  # shows the children
    page.click("a", "pretrain")
    page.click("[role=tab]", "Model metrics")
    page.find("input[placeholder^='Search']").send_keys("^loss$")
    page.find(".js-plotly-plot path.js-line")
    page.picture("mlflow-curves")
    page.click("[data-component-id='mlflow.assistant.chat_panel.close']")
    page.click("[data-component-id='mlflow_header.toggle_sidebar_button']")
    page.resize(*TELEPHONE)
    page.find(".js-plotly-plot path.js-line")
    page.picture("mlflow-curves-narrow")
    page.open(logged_in(served.report, PASSWORD))
    page.see("Tokenmill report", "pretrain")
    page.picture("report-narrow")
    page.resize(*DESK)


def test_a_run_waits_for_approval_and_publishes_only_what_was_approved(
    trained: dict[str, Any], page: Browser, served: Served, project: Path
) -> None:
    page.rest()
    asked = {"targets": ["pretrain"], "publish": "after approval"}
    declined = served.start(**asked)
    served.until(declined, "PAUSED")
    assert champion(served) is None
    decide(page, served, declined, "decline")
    assert champion(served) is None
    assert "was not published" in served.artifacts(declined)["published"]["data"]

    page.rest()
    approved = served.start(**asked)
    served.until(approved, "PAUSED")
    decide(page, served, approved, "publish")
    outs = yaml.safe_load((project / "dvc.lock").read_text())["stages"]["pretrain"]["outs"]
    [out] = [out for out in outs if out["path"] == "data/pretrain"]
    tags = {tag["key"]: tag["value"] for tag in champion(served)["tags"]}
    assert (tags["dvc.path"], tags["dvc.md5"]) == ("data/pretrain", out["md5"]) and tags["git.revision"]
    assert "alias `champion`" in served.artifacts(approved)["published"]["data"]


def test_a_failed_run_says_why(page: Browser, served: Served) -> None:
    page.rest()
    sources = ["ingest.sources=[{name: jsonl, path: not-there.jsonl}]"]
    number = served.start(targets=["ingest"], overrides=sources)
    run = served.until(number, "FAILED")
    assert "jsonl: no file matches 'not-there.jsonl'" in run["state"]["message"]  # preflight's words: nothing has begun
    page.open(f"{served.prefect}/v2/runs/flow-run/{number}")
    page.see("Failed", "not-there.jsonl")
    page.picture("failed-run")
    wrong = served.start(overrides=["rl.stepz=5"])
    assert "rl.stepz: unknown key; did you mean 'steps'?" in served.until(wrong, "FAILED")["state"]["message"]


def test_a_cancelled_run_leaves_no_process(page: Browser, served: Served, project: Path) -> None:
    page.rest()
    sources = [f"ingest.{key}" for key in ("sources=[{name: worksheets, digits: 3}]", "max_bytes=4000000000")]
    number = served.start(targets=["ingest"], overrides=sources)
    served.until(number, "RUNNING")
    page.until(lambda: stages_in(project), "the stage to run")
    menu(page, served, number, "Running", "Cancel")
    page.see("Are you sure you want to cancel")
    page.picture("cancel")
    page.click("[role=dialog] button, [role=alertdialog] button", "Cancel Flow Run")
    run = served.until(number, "CANCELLED")
    assert run["state"]["message"] == "stopped in ingest; run again to go on: what was finished is kept"
    [stage] = task_runs(served, number)
    assert stage["state"]["type"] == "CANCELLED" and "goes on from what it has saved" in stage["state"]["message"]
    page.until(lambda: not stages_in(project), "the stage to end")
    said = [line["message"] for line in served.ask(f"{served.prefect}/api/logs/filter", of_run(number))]
    assert any(line.startswith("preflight | rehearsing ingest") for line in said)
    assert not any("Traceback" in line or line.startswith("progress ") for line in said)
    page.open(f"{served.prefect}/v2/runs/flow-run/{number}")
    page.see("Cancelled", "run again to go on")
    page.picture("cancelled-run")


def of_run(number: str) -> dict[str, Any]:
    return {"logs": {"flow_run_id": {"any_": [number]}}, "sort": "TIMESTAMP_ASC"}


def test_a_run_by_make_is_shown_by_the_server_that_runs_here(page: Browser, served: Served, project: Path) -> None:
    """With no word of where the server is, and what was given it as password nowhere but in its processes' environment."""
    page.rest()
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "TOKENMILL"))}
    command = [sys.executable, "-m", "flows.pipeline", "--preset", "tiny", "--targets", "ingest", "--force"]
    done = subprocess.run(
        command,
        cwd=project,
        env={**surroundings, "PYTHONPATH": os.pathsep.join([str(project), *EXTRA])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and f"shown at {served.prefect}" in done.stdout, done.stdout + done.stderr
    newest = served.ask(f"{served.prefect}/api/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
    assert (newest["name"], newest["state_type"], newest["deployment_id"]) == ("tiny", "COMPLETED", None)
    said = [line["message"] for line in served.ask(f"{served.prefect}/api/logs/filter", of_run(newest["id"]))]
    assert any("params.yaml: " in line for line in said)
    report = served.artifacts(newest["id"])["report"]["data"]
    assert served.report in report and f"[MLflow]({served.mlflow}/#/experiments/" in report
    page.open(f"{served.prefect}/v2/runs")
    page.see("tiny")
    page.picture("runs")
    page.open(logged_in(served.mlflow, PASSWORD))
    page.see("MLflow")
    page.open(served.log.read_text().split("its runs")[1].split()[0])
    page.see("tiny", "Run Name")
    page.picture("mlflow-runs")


class Busy(BaseHTTPRequestHandler):
    """Answers 503 twice, then what it was sent."""

    asked: list[bytes] = []

    def do_POST(self) -> None:
        self.asked.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(503 if len(self.asked) < 3 else 200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(self.asked[-1])

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_a_server_that_is_busy_for_a_moment_is_asked_again(page: Browser, served: Served) -> None:
    page.open(served.prefect)
    page.find("a", "Deployments")
    server = ThreadingHTTPServer((HOST, 0), Busy)
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        request = f"new Request('http://{HOST}:{server.server_port}/', {{method: 'POST', body: 'what was sent'}})"
        asks = f"const done = arguments[0]; fetch({request}).then(a => a.text().then(t => done([a.status, t])))"
        assert page.driver.execute_async_script(asks) == [200, "what was sent"]
        server.shutdown()
    assert Busy.asked == [b"what was sent"] * 3


def stages_in(project: Path) -> list[int]:
    """The processes of stages that work in this folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if process.info["cwd"] == str(project) and process.info["cmdline"][1:] == ["-m", "tasks.runner", "ingest"]:
            found.append(process.pid)
    return found


def test_the_password_is_in_no_file_command_line_or_answer(
    served: Served, project: Path, trained: dict[str, Any]
) -> None:
    texts = {PASSWORD.encode(), header(PASSWORD)["Authorization"].removeprefix("Basic ").encode()}
    assert [path for path in files_in(project) if holds(bytes_of(path), texts)] == []
    assert not holds(served.log.read_bytes(), texts)
    lines = [" ".join(found.info["cmdline"] or []) for found in psutil.process_iter(["cmdline"])]
    assert not any(holds(line.encode(), texts) for line in lines)
    for kind in ("flow_runs", "artifacts", "logs", "task_runs", "variables", "deployments"):
        assert not holds(json.dumps(served.ask(f"{served.prefect}/api/{kind}/filter", {})).encode(), texts)


def holds(text: bytes, texts: set[bytes]) -> bool:
    return any(secret in text for secret in texts)

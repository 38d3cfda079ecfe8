"""What MLflow holds after real stages: curves, inputs with DVC digests, parents, killed runs, registered models."""

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import mlflow
from tasks.core.key import path_md5, read_ignored
from tasks.core.tracking import flatten
from tests.core.test_stage import finish, project, set_params, start, wait_for_step  # noqa: F401
from tests.project import ROOT


def client_of(folder: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{folder}/mlflow/store/mlflow.db")


def runs_of(folder: Path) -> list:
    client = client_of(folder)
    experiment = client.get_experiment_by_name("tokenmill")
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


def call(folder: Path, expression: str) -> str:
    """The last line that an expression over tasks.core.tracking prints, in a process of its own."""
    program = f"from tasks.core.tracking import *; print({expression})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENMILL_TRACKING": "on"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert "warning" not in done.stderr, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_a_stage_is_recorded_under_its_parent(project: Path, monkeypatch) -> None:  # noqa: F811
    parent = call(project, "start_parent({'preset': 'toy'}, {'toy': {'steps': 10}})")
    status, printed = finish(
        start(project, TOKENMILL_TRACKING="on", TOKENMILL_PARENT_RUN=parent, TOKENMILL_FLOW_RUN="f1")
    )
    assert (status, printed) == (0, "")
    call(project, f"finish_parent('{parent}', 'FINISHED')")
    by_name = {run.info.run_name: run for run in runs_of(project)}
    assert set(by_name) == {"pipeline", "toy"} and all(run.info.status == "FINISHED" for run in by_name.values())
    run = by_name["toy"]
    assert run.data.params == {"toy.steps": "10"}
    tags = {"mlflow.parentRunId": parent, "prefect.flow_run_id": "f1", "dvc.stage": "toy", "dvc.out": "data/toy"}
    assert tags.items() <= run.data.tags.items() and len(run.data.tags["stage.key"]) == 64
    assert run.data.metrics["final.loss"] == 0.25 and run.data.metrics["run.tokens_per_second"] == 5.0
    history = client_of(project).get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(s, 1.0 / (s + 1)) for s in range(10)]
    inputs = {i.dataset.name: i.dataset.digest for i in run.inputs.dataset_inputs}
    monkeypatch.chdir(project)
    assert inputs["data/given"] == path_md5(Path("data/given"), read_ignored())


def test_a_killed_run_is_closed_at_the_next_start(project: Path) -> None:  # noqa: F811
    set_params(project, mode="waits")
    process = start(project, TOKENMILL_TRACKING="on")
    wait_for_step(project, 6)
    wait_for_run(project, process)
    process.kill()
    process.communicate()
    assert [run.info.status for run in runs_of(project)] == ["RUNNING"]
    (project / "go").touch()
    assert finish(start(project, TOKENMILL_TRACKING="on"))[0] == 0
    assert [run.info.status for run in runs_of(project)] == ["KILLED", "FINISHED"]


def wait_for_run(folder: Path, process: subprocess.Popen) -> None:
    """Until the store has a run with its tags; read as a file, since a client would make the store itself."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with sqlite3.connect(f"file:{folder}/mlflow/store/mlflow.db?mode=ro", uri=True) as store:
                if store.execute("SELECT count(*) FROM params").fetchone()[0]:
                    return
        except sqlite3.OperationalError:
            pass  # not made yet
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)  # watching a file: what is waited for is its content, never the time


def test_a_model_is_registered_by_reference_once_for_each_md5(project: Path) -> None:  # noqa: F811
    register = "register_model('tokenmill', 'toy', 'data/toy', '{}', 'abc', {{'accuracy': 0.5}})"
    assert [call(project, register.format(md5)) for md5 in ("m1.dir", "m1.dir", "m2.dir")] == ["1", "1", "2"]
    versions = client_of(project).search_model_versions("name = 'tokenmill'")
    assert {v.tags["dvc.md5"] for v in versions} == {"m1.dir", "m2.dir"}
    assert (
        sum(p.stat().st_size for p in (project / "mlflow/store").rglob("*") if p.is_file() and p.suffix != ".db")
        < 10_000
    )


def test_params_are_flattened() -> None:
    values = yaml.safe_load("{a: {b: 1, c: [x, {d: null}]}, e: {}}")
    assert flatten(values) == {"a.b": "1", "a.c.0": "x", "a.c.1.d": "None", "e": "{}"}


def test_switched_off_it_leaves_nothing(project: Path) -> None:  # noqa: F811
    assert finish(start(project))[0] == 0
    assert not (project / "mlflow").exists()
    with pytest.raises(subprocess.CalledProcessError):  # the helper above does see a failure
        call(project, "undefined_name")

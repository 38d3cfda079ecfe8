"""What MLflow holds after real stages: curves, inputs with DVC digests, parents, killed runs, registered models."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric, _validate_param, _validate_tag

import mlflow
from lm.inputs.hashed import read_ignored
from tasks.runner.graph import read_graph
from tasks.runner.key import dependency_md5s, path_md5
from tasks.runner.names import flatten, lawful
from tests.core.test_stage import finish, project, set_params, start, wait_for_step  # noqa: F401
from tests.processes import PATIENCE, wait_for
from tests.project import ROOT


def client_of(folder: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{folder}/mlflow/store/mlflow.db")


def runs_of(folder: Path) -> list:
    client = client_of(folder)
    experiment = client.get_experiment_by_name("tokenmill")
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


def call(folder: Path, expression: str) -> str:
    """The last line that an expression over tasks.runner.tracking and registry prints, in a process of its own."""
    program = f"from tasks.runner.registry import *; from tasks.runner.tracking import *; print({expression})"
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


def test_a_pipelines_run_has_its_name_figures_and_report(project: Path) -> None:  # noqa: F811
    parent = call(project, "start_parent({'preset': 'smoke'}, {'seed': 0}, 'smoke rl.steps=5')")
    (project / "index.html").write_text("a report")
    call(project, f"finish_parent('{parent}', 'FINISHED')")
    call(
        project, f"record_results('{parent}', {{'rl.accuracy': 0.5, 'quantize.size_bytes': 744e3}}, Path('index.html'))"
    )
    run = client_of(project).get_run(parent)
    assert (run.info.run_name, run.info.status, run.data.tags["preset"]) == ("smoke rl.steps=5", "FINISHED", "smoke")
    assert run.data.metrics == {"rl.accuracy": 0.5, "quantize.size_bytes": 744e3}
    assert [file.path for file in client_of(project).list_artifacts(parent)] == ["index.html"]


def test_processes_in_other_folders_make_one_store_that_is_named_once(tmp_path: Path) -> None:
    """As the variants of one checkout do at their first runs: of two that make its tables at once both failed, and all after
    them."""
    code = "import os; from tasks.runner.tracking import connect; print(os.read(0, 1) and connect().get_experiment('0').name)"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }
    processes = []
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", f"import mlflow; mlflow.MlflowClient; {code}"],
                cwd=tmp_path / name,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(".")
        process.stdin.flush()
    said = [process.communicate()[0].splitlines()[-1] for process in processes]
    assert said == ["Default"] * 3


def test_a_killed_run_is_closed_at_the_next_start(project: Path) -> None:  # noqa: F811
    set_params(project, mode="waits")
    process = start(project, TOKENMILL_TRACKING="on")
    wait_for_step(project, 6)
    wait_for(lambda: points(project) == 6)
    call(project, "start_parent({}, {})")
    assert next(run.info.status for run in runs_of(project)) == "RUNNING", "a living stage was closed"
    process.kill()
    process.communicate()
    (project / "go").touch()
    assert finish(start(project, TOKENMILL_TRACKING="on"))[0] == 0
    runs = runs_of(project)
    assert [(run.info.run_name, run.info.status) for run in runs] == [
        ("toy", "KILLED"),
        ("pipeline", "KILLED"),
        ("toy", "FINISHED"),
    ]
    history = client_of(project).get_metric_history(runs[2].info.run_id, "loss")
    assert [m.step for m in history] == list(range(10)), "the run that resumed holds half a curve"


def test_a_run_whose_process_has_ended_and_was_not_yet_waited_for_is_closed(project: Path) -> None:  # noqa: F811
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        tags = {"process.pid": f"{process.pid}", "process.started": f"{psutil.Process(process.pid).create_time()}"}
        left = call(project, f"start_parent({tags}, {{}})")
        call(project, "start_parent({}, {})")
        assert client_of(project).get_run(left).info.status == "KILLED"


def points(folder: Path) -> int:
    """Points that the store holds, asked past MLflow, which would make the store itself while the stage does."""
    path = folder / "mlflow/store/mlflow.db"
    if not path.exists():
        return 0
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute("select count(*) from metrics").fetchone()[0]
    except sqlite3.OperationalError:  # no such table yet, or it is being made
        return 0
    finally:
        connection.close()


def test_a_model_is_registered_by_reference_once_for_each_md5(project: Path) -> None:  # noqa: F811
    register = "register_model('tokenmill', 'toy', 'data/toy', '{}', 'abc', {{'accuracy': 0.5}})"
    assert [call(project, register.format(md5)) for md5 in ("m1.dir", "m1.dir", "m2.dir")] == ["1", "1", "2"]
    versions = client_of(project).search_model_versions("name = 'tokenmill'")
    assert {v.tags["dvc.md5"] for v in versions} == {"m1.dir", "m2.dir"}
    assert (
        sum(p.stat().st_size for p in (project / "mlflow/store").rglob("*") if p.is_file() and p.suffix != ".db")
        < 10_000
    )


def test_figures_found_after_a_model_was_registered_are_added(project: Path) -> None:  # noqa: F811
    for figures in ("{}", "{'accuracy': 0.5}", "{'accuracy': 0.25, 'size_bytes': 3}"):
        assert call(project, f"register_model('tokenmill', 'toy', 'data/toy', 'm1.dir', 'abc', {figures})") == "1"
    client = client_of(project)
    [version] = client.search_model_versions("name = 'tokenmill'")
    assert client.get_logged_model(version.source.removeprefix("models:/")).params == {
        "accuracy": "0.5",  # what was found of these bytes first
        "size_bytes": "3",
    }


def test_a_tree_of_which_git_cannot_tell_is_neither_clean_nor_dirty(project: Path, tmp_path: Path) -> None:  # noqa: F811
    said = "__import__('tasks.runner.record', fromlist=['record']).process_tags()['git.dirty']"
    assert call(project, said) == "unknown"
    git = ["git", "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "first"]):
        subprocess.run([*git, *words], cwd=project, check=True)
    assert call(project, said) == "true"
    (project / ".git" / "index").write_text("cut off")  # git still knows the revision
    assert call(project, said) == "unknown"


def test_a_model_points_to_the_run_that_made_its_bytes_and_not_to_the_newest(project: Path, monkeypatch) -> None:  # noqa: F811
    monkeypatch.chdir(project)
    locks = []
    for steps in (10, 3):
        set_params(project, steps=steps)
        entry = read_graph()["toy"]
        assert finish(start(project, TOKENMILL_TRACKING="on")) == (0, "")
        deps = [{"path": path, "md5": md5} for path, md5 in dependency_md5s(entry, read_ignored()).items()]
        locks.append({"cmd": entry.cmd, "deps": deps, "params": {"params.yaml": {"toy": {"steps": steps}}}})
    (project / "dvc.lock").write_text(yaml.safe_dump({"stages": {"toy": locks[0]}}))
    assert call(project, "register_model('tokenmill', 'toy', 'data/toy', 'm1.dir', 'abc', {})") == "1"
    client = client_of(project)
    model = client.get_logged_model(
        client.search_model_versions("name = 'tokenmill'")[0].source.removeprefix("models:/")
    )
    assert client.get_run(model.source_run_id).data.params == {"toy.steps": "10"}


def test_the_settings_of_the_server_are_those_of_the_tracker() -> None:
    lines = (ROOT / "mlflow" / "server.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert settings["MLFLOW_BACKEND_STORE_URI"] == "sqlite:///mlflow/store/mlflow.db"
    assert settings["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == "mlflow/store/artifacts"
    assert settings["MLFLOW_HOST"] == "127.0.0.1" and settings["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_params_are_flattened() -> None:
    values = yaml.safe_load("{a: {b: 1, c: [x, {d: null}]}, e: {}, f: true}")
    assert flatten(values) == {"a.b": "1", "a.c.0": "x", "a.c.1.d": "null", "e": "{}", "f": "true"}


def test_switched_off_it_leaves_nothing(project: Path) -> None:  # noqa: F811
    assert finish(start(project))[0] == 0
    assert not (project / "mlflow").exists()
    with pytest.raises(subprocess.CalledProcessError):  # the helper above does see a failure
        call(project, "undefined_name")


LABELS = [
    "documents_web (en)",
    "c++",
    "a,b",
    "a;b",
    "grüße",
    "../x",
    "/x",
    "a//b",
    "x" * 400,
    "x" * 401,
    "50%",
    "\u4e2d\u6587",
    ".",
]


def test_figures_of_labels_that_mlflow_refuses_are_recorded(project: Path) -> None:  # noqa: F811
    set_params(project, mode="labels", weights=dict.fromkeys(LABELS, 1))
    (project / "toy" / "stage.py").write_text(
        (project / "toy" / "stage.py")
        .read_text()
        .replace('mode: str = "good"', 'mode: str = "good"; weights: dict = {}')
    )
    (project / "labels").write_text("\n".join(LABELS))
    status, printed = finish(start(project, TOKENMILL_TRACKING="on"))
    assert status == 0 and "warning" not in printed, printed
    [run] = runs_of(project)
    names = {lawful(label) for label in LABELS}
    assert run.info.status == "FINISHED" and len(names) == len(LABELS)
    for kind, value in (("", 1.0), ("run.", 2.0), ("final.", 3.0)):
        found = {lawful(kind + label): run.data.metrics.get(lawful(kind + label)) for label in LABELS}
        assert set(found.values()) == {value}, (kind, found)
    assert {lawful(f"toy.weights.{label}") for label in LABELS} <= set(run.data.params)


@given(st.text(max_size=300) | st.sampled_from(LABELS), st.text(max_size=300))
def test_a_lawful_name_is_taken_and_is_one_names_alone(one: str, other: str) -> None:
    for name in (one, other):
        assert lawful(name) == lawful(name)
        _validate_metric(lawful(name), 1.0, 1, 1)
        _validate_param(lawful(name), "1")
        _validate_tag(lawful(name), "1")
    assert (lawful(one) == lawful(other)) == (one == other)
    assert lawful("final.loss") == "final.loss" and lawful("documents_web") == "documents_web"


def test_a_deleted_experiment_is_restored_and_said_once(project: Path) -> None:  # noqa: F811
    assert finish(start(project, TOKENMILL_TRACKING="on")) == (0, "")
    client = client_of(project)
    client.delete_experiment(client.get_experiment_by_name("tokenmill").experiment_id)
    status, printed = finish(start(project, TOKENMILL_TRACKING="on"))
    assert status == 0 and printed.splitlines() == [
        "tracking: the experiment tokenmill was deleted; it is restored, with its runs"
    ]
    assert finish(start(project, TOKENMILL_TRACKING="on")) == (0, "")
    assert [run.info.status for run in runs_of(project)] == ["FINISHED"] * 3


@pytest.mark.parametrize("killed", [False, True], ids=["released", "killed"])
def test_a_run_whose_end_a_locked_store_does_not_take_is_not_left_running(project: Path, killed: bool) -> None:  # noqa: F811
    """Released, the run ends as it was; where the process goes before, the next start says how it had ended."""
    set_params(project, mode="waits")
    process = start(project, TOKENMILL_TRACKING="on")
    wait_for(lambda: points(project) == 6)
    store = sqlite3.connect(project / "mlflow/store/mlflow.db", isolation_level=None)
    store.execute("begin exclusive")
    (project / "go").touch()
    wait_for(lambda: any((project / ".scratch" / "tracking").rglob("*.json")))
    if killed:
        process.kill()
        process.communicate()
    store.execute("rollback")
    store.close()
    if killed:
        assert [run.info.status for run in runs_of(project)] == ["RUNNING"]
        call(project, "start_parent({}, {})")
    else:
        assert process.wait(PATIENCE) == 0
    assert runs_of(project)[0].info.status == "FINISHED"
    assert not any((project / ".scratch" / "tracking").rglob("*.json"))


def test_a_parameter_that_the_store_refuses_ends_no_record(project: Path) -> None:  # noqa: F811
    lines = "client = t.connect(); run = t.start_parent({}, {'a': 1}); t._log_params = lambda *_: 1 / 0; "
    lines += "other = t.start_parent({}, {}); t.finish_parent(other, 'FINISHED'); t.finish_parent(run, 'FINISHED')"
    program = f"import tasks.runner.tracking as t; {lines}"
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENMILL_TRACKING": "on"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=project, env=surroundings, capture_output=True, text=True
    )
    assert done.returncode == 0 and "the pipeline's parameters failed: ZeroDivisionError" in done.stderr
    assert [run.info.status for run in runs_of(project)] == ["FINISHED"] * 2


def test_a_store_that_is_a_folder_is_waited_for_and_said(project: Path) -> None:  # noqa: F811
    """As long as for one that is locked: SQLite calls both the same."""
    given = {"TOKENMILL_TRACKING": "on", "MLFLOW_TRACKING_URI": "sqlite:///data", "TOKENMILL_TRACKING_SECONDS": "6"}
    status, printed = finish(start(project, **given))
    assert status == 0 and (project / "data/toy/whole").exists()
    assert [line[:18] for line in printed.splitlines() if "tracking" in line] == ["warning: tracking:"]

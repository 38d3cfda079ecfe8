"""Runs that another process records for the stages: what it holds, and what is left where a stage, that process or the store goes."""

import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.runner.tracking_events import Begin, End, Made, Over, Point, Said, Samples, answer_of, event_of, line_of
from tasks.runner.tracking_socket import RECORDER
from tests.core.test_stage import project, set_params, start  # noqa: F401
from tests.processes import wait_for
from tests.project import ROOT
from tests.system.core.test_tracking import call, client_of, points, runs_of

SERVE = """
import json, sys
from tasks.runner.tracking_socket import recorder
with recorder() as recorded:
    print(json.dumps(recorded), flush=True)
    sys.stdin.read()
"""
# What is of one process or one moment; libraries are those that a process has imported, mlflow among them or not.
OF_ONE_RUN = ("process.pid", "process.started", "made.by.libraries")
GONE = "warning: tracking: toy failed: ConnectionError: the process that recorded it has gone"
TIMES = ("run.seconds", "run.peak_memory_bytes")


@contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A process that records in this folder as the pipeline's does, and the environment of its stages."""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENMILL_TRACKING": "on"}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE],
        cwd=folder,
        env=surroundings,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    recorded = json.loads(process.stdout.readline())
    try:
        yield process, {"TOKENMILL_TRACKING": "on", **recorded}
        said, _ = process.communicate()
        assert said == "", said
    finally:
        process.kill()
        shutil.rmtree(Path(recorded[RECORDER]).parent, ignore_errors=True)  # one that was killed leaves it


def ended(stage: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Its exit code, and the lines that it said beside how far it was, which a slow machine makes it say."""
    printed, _ = stage.communicate()
    return stage.returncode, [line for line in printed.splitlines() if " eta " not in line]


def statuses(folder: Path) -> list[str]:
    """Of the runs in the store, oldest first; asked past MLflow, which would make the store itself."""
    connection = sqlite3.connect(f"file:{folder}/mlflow/store/mlflow.db?mode=ro", uri=True)
    try:
        return [status for (status,) in connection.execute("select status from runs order by start_time")]
    finally:
        connection.close()


def held(folder: Path, run: Any) -> dict[str, Any]:
    """What the store has of a run, but for what is of one process or one moment."""
    client = client_of(folder)
    number, data = run.info.run_id, run.data
    curves = {name: client.get_metric_history(number, name) for name in data.metrics}
    artifacts = [
        file.path for part in client.list_artifacts(number) for file in client.list_artifacts(number, part.path)
    ]
    moments = {m.timestamp for curve in curves.values() for m in curve}
    assert run.info.start_time <= min(moments) and max(moments) == run.info.end_time
    return {
        "run": (run.info.run_name, run.info.status, run.info.user_id, run.info.lifecycle_stage),
        "params": data.params,
        "curves": {
            name: None if name in TIMES else [(m.step, m.value) for m in curve] for name, curve in curves.items()
        },
        "tags": {name: None if name in OF_ONE_RUN else text for name, text in data.tags.items()},
        "inputs": sorted((i.dataset.name, i.dataset.digest, i.dataset.source) for i in run.inputs.dataset_inputs),
        "artifacts": {path: Path(client.download_artifacts(number, path)).read_text() for path in artifacts},
    }


def test_a_run_is_the_same_whoever_records_it(project: Path) -> None:  # noqa: F811
    source = project / "toy" / "stage.py"
    said = 'log.samples(step, {"Once": f"upon {step}", "gr\\u00fc\\u00dfe": "\\n"}); log(step, loss='
    source.write_text(source.read_text().replace("log(step, loss=", said))
    parent = {"TOKENMILL_PARENT_RUN": call(project, "start_parent({}, {})"), "TOKENMILL_FLOW_RUN": "f1"}
    set_params(project, mode="waits")  # until mlflow is imported
    alone = start(project, TOKENMILL_TRACKING="on", **parent)
    wait_for(lambda: points(project) == 6, alone)
    (project / "go").touch()
    assert ended(alone) == (0, [])
    with served(project) as (_, recorded):
        helped = start(project, **recorded, **parent)
        assert ended(helped) == (0, [])
    _, *both = runs_of(project)
    by_stage, by_recorder = (held(project, run) for run in both)
    assert by_recorder == by_stage
    assert by_stage["run"][:2] == ("toy", "FINISHED") and len(by_stage["artifacts"]) == 10
    assert len(by_stage["curves"]["loss"]) == 10 and by_stage["curves"]["final.loss"] == [(0, 0.25)]
    assert [run.data.tags["process.pid"] for run in both] == [str(alone.pid), str(helped.pid)]
    libraries = [set(json.loads(run.data.tags["made.by.libraries"])) for run in both]
    assert libraries[0] > libraries[1] and "mlflow" in libraries[0] - libraries[1]


def test_a_failure_is_recorded_as_one(project: Path) -> None:  # noqa: F811
    set_params(project, mode="raises")
    with served(project) as (_, recorded):
        assert ended(start(project, **recorded))[0] == 1
        assert statuses(project) == ["FAILED"]


def test_a_killed_stage_is_recorded_as_killed_at_once(project: Path) -> None:  # noqa: F811
    set_params(project, mode="waits")
    with served(project) as (recorder, recorded):
        stage = start(project, **recorded)
        wait_for(lambda: points(project) == 6, recorder, stage)
        assert statuses(project) == ["RUNNING"]
        stage.kill()
        stage.communicate()
        wait_for(lambda: statuses(project) == ["KILLED"], recorder)
    assert points(project) == 6


def test_several_stages_at_once(project: Path) -> None:  # noqa: F811
    """Of projects of their own, since a stage runs once at a time; the store is the recorder's."""
    lengths = (8, 9, 10)
    with served(project) as (recorder, recorded):
        folders = [Path(shutil.copytree(project, project.parent / f"copy-{steps}")) for steps in lengths]
        for folder, steps in zip(folders, lengths, strict=True):
            set_params(folder, mode="waits", steps=steps)
        stages = [start(folder, **recorded) for folder in folders]
        wait_for(lambda: points(project) == 6 * len(lengths), recorder, *stages)
        for folder in folders:
            (folder / "go").touch()
        assert [ended(stage) for stage in stages] == [(0, [])] * len(lengths)
    found = {run.data.params["toy.steps"]: run for run in runs_of(project)}
    assert set(found) == {str(steps) for steps in lengths}
    for steps, run in found.items():
        curve = client_of(project).get_metric_history(run.info.run_id, "loss")
        assert run.info.status == "FINISHED" and [m.step for m in curve] == list(range(int(steps)))


def test_nobody_waits_for_a_recorder_that_stands_still(project: Path) -> None:  # noqa: F811
    """More points than a socket holds; the stage does its work meanwhile."""
    set_params(project, steps=10_000)
    with served(project) as (recorder, recorded):
        recorder.send_signal(signal.SIGSTOP)
        stage = start(project, **recorded)
        wait_for(lambda: (project / "data/timings/toy.record.json").exists(), stage)
        recorder.send_signal(signal.SIGCONT)
        assert ended(stage) == (0, [])
    [run] = runs_of(project)
    connection = sqlite3.connect(project / "mlflow/store/mlflow.db")
    assert connection.execute("select count(*) from metrics where key = 'loss'").fetchone() == (10_000,)
    connection.close()
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("killed", [False, True], ids=["released", "recorder killed"])
def test_a_store_that_takes_nothing_for_a_while_holds_the_run_in_the_end(project: Path, killed: bool) -> None:  # noqa: F811
    """The stage does its work meanwhile; where the recorder goes before the store is back, the next start says how it ended."""
    set_params(project, mode="waits")
    with served(project) as (recorder, recorded):
        stage = start(project, **recorded)
        wait_for(lambda: points(project) == 6, recorder, stage)
        store = sqlite3.connect(project / "mlflow/store/mlflow.db", isolation_level=None)
        store.execute("begin exclusive")
        (project / "go").touch()
        wait_for(lambda: any((project / ".scratch" / "tracking").rglob("*.json")), stage)
        if killed:
            recorder.kill()
            assert ended(stage) == (0, [GONE])
        store.execute("rollback")
        store.close()
        if killed:
            assert statuses(project) == ["RUNNING"]
            call(project, "start_parent({}, {})")
        else:
            assert ended(stage) == (0, [])
            assert points(project) == 10 + 2 + 3  # of the curve, final, of the run
    assert statuses(project)[0] == "FINISHED"
    assert not any((project / ".scratch" / "tracking").rglob("*.json"))


def test_a_recorder_that_goes_is_one_line(project: Path) -> None:  # noqa: F811
    set_params(project, mode="waits")
    with served(project) as (recorder, recorded):
        stage = start(project, **recorded)
        wait_for(lambda: points(project) == 6, recorder, stage)
        recorder.kill()
        recorder.wait()
        (project / "go").touch()
        assert ended(stage) == (0, [GONE])
    set_params(project)
    assert ended(start(project, **recorded)) == (0, []), "where nobody answers a stage records for itself"
    assert statuses(project) == ["FINISHED", "FINISHED"]


def test_the_stage_says_what_keeps_its_run_from_being_recorded(project: Path) -> None:  # noqa: F811
    (project / "mlflow").write_text("no folder")
    with served(project) as (_, recorded):
        status, [warning] = ended(start(project, **recorded))
    assert status == 0 and warning.startswith("warning: tracking: toy failed: ")


def test_the_socket_is_this_users_alone_and_goes_with_the_recorder(project: Path) -> None:  # noqa: F811
    with served(project) as (_, recorded):
        path = Path(recorded[RECORDER])
        modes = path.parent.stat(), path.stat()
        assert [stat.S_IMODE(mode.st_mode) for mode in modes] == [0o700, 0o600] and stat.S_ISSOCK(modes[1].st_mode)
        assert {mode.st_uid for mode in modes} == {os.getuid()} and len(os.fsencode(path)) < 107
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "setting", [{"TOKENMILL_TRACKING": "off"}, {"TMPDIR": "long"}], ids=lambda each: next(iter(each))
)
def test_without_a_socket_the_stages_are_told_of_none(project: Path, setting: dict[str, str]) -> None:  # noqa: F811
    if "TMPDIR" in setting:
        folder = project / ("x" * 100)
        folder.mkdir()
        setting = {"TMPDIR": str(folder)}
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), **setting}
    done = subprocess.run(
        [sys.executable, "-c", SERVE], cwd=project, env=surroundings, text=True, capture_output=True, input=""
    )
    assert (done.returncode, done.stdout) == (0, "{}\n")
    assert done.stderr.startswith("warning: tracking: ") == ("TMPDIR" in setting) and done.stderr.count("\n") < 2


TEXTS = st.dictionaries(st.text(), st.text())
NUMBERS = st.dictionaries(st.text(), st.floats(allow_nan=False))
MESSAGES = [
    st.builds(Begin, st.text(), st.integers(), TEXTS, TEXTS, TEXTS),
    st.builds(Point, st.integers(), NUMBERS, st.integers()),
    st.builds(Samples, st.integers(), TEXTS),
    st.builds(End, st.text(), NUMBERS, TEXTS, st.integers()),
]
ANSWERS = [st.builds(Made, st.text(), st.text()), st.builds(Said, st.text()), st.just(Over())]


@given(st.one_of(MESSAGES), st.one_of(ANSWERS))
def test_a_message_is_one_line_and_comes_back_as_it_was(event, answer) -> None:
    for message, read, other in ((event, event_of, answer_of), (answer, answer_of, event_of)):
        line = line_of(message)
        assert line.count(b"\n") == 1 and line.endswith(b"\n") and read(line) == message
        for wrong, reader in ((line[: len(line) // 2], read), (line, other), (b"[1]", read), (b'{"kind": 1}', read)):
            with pytest.raises(ValueError):
                reader(wrong)

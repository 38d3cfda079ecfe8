"""A committed lock run again in a worktree, by real git, DVC and stages: the same bytes, or the library that changed them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.environment import environment
from flows.replay.finished_run import from_revision, revision_of
from flows.replay.tolerance import ToleranceResult, judge
from flows.workspaces.smoke import copy_project
from tests.flows.runs import PARAMS, SHARDS, other_xxhash, texts, write_shard
from tests.project import ROOT, write_params

LAST = "tokenize"


def in_project(project: Path, *command: str, **more: str) -> subprocess.CompletedProcess:
    """A command with the project's own code and store, on one thread."""
    surroundings = {**environment(project), "TOKENMILL_THREADS": "1", "TOKENMILL_SHARD_WORKERS": "1", **more}
    path = os.pathsep.join(filter(None, [more.get("PYTHONPATH"), str(project)]))
    surroundings = {k: v for k, v in surroundings.items() if k != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": path}
    return subprocess.run(command, cwd=project, env=surroundings, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the stages up to LAST run, recorded in MLflow, and their lock committed."""
    folder = copy_project(ROOT, tmp_path_factory.mktemp("project"))
    (folder / "dvc.lock").unlink()
    write_params(folder, PARAMS)
    for shard in range(SHARDS):
        write_shard(folder / "data" / "raw", shard, texts(shard))
    done = in_project(folder, sys.executable, "-m", "dvc", "repro", LAST)
    assert done.returncode == 0, done.stdout + done.stderr
    who = ("-c", "user.name=tokenmill", "-c", "user.email=tokenmill@localhost")
    for command in (("add", "-A"), (*who, "commit", "-qm", "the lock")):
        done = in_project(folder, "git", *command)
        assert done.returncode == 0, done.stderr
    return folder


def reproduce(project: Path, revision: str, **more: str) -> tuple[int, list[str]]:
    """Exit code, and the lines of the report."""
    done = in_project(project, sys.executable, "-m", "flows.replay.reproduce", revision, **more)
    assert not (project / ".scratch" / "reproduce").exists() or not list((project / ".scratch/reproduce").iterdir())
    lines = done.stdout.splitlines()
    heads = [number for number, line in enumerate(lines) if line.endswith(", run again:")]
    assert heads or done.returncode == 2, done.stdout + done.stderr
    return done.returncode, lines[heads[0] + 1 :] if heads else done.stderr.splitlines()


def run_id(project: Path, stage: str) -> str:
    """The id of the stage's run, asked of MLflow itself."""
    program = (
        "import mlflow; c = mlflow.MlflowClient('sqlite:///mlflow/store/mlflow.db');"
        "e = c.get_experiment_by_name('tokenmill').experiment_id;"
        f"print(c.search_runs([e], \"tags.`dvc.stage` = '{stage}'\")[0].info.run_id)"
    )
    return in_project(project, sys.executable, "-c", program).stdout.split()[-1]


def test_a_run_leads_to_its_revision_and_stage_and_is_bit_equal(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = run_id(project, "dedup")
    code, lines = reproduce(project, asked)
    assert (code, [line.split() for line in lines]) == (0, [["ingest", "|", "bit-equal"], ["dedup", "|", "bit-equal"]])
    monkeypatch.chdir(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    head = in_project(project, "git", "rev-parse", "HEAD").stdout.strip()
    assert revision_of(project, asked) == (head, "dedup")


def test_what_mlflow_has_stands_in_for_records_that_are_gone(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = project / "data" / "timings" / "filter.record.json"
    kept = path.read_text()
    path.unlink()
    try:
        found = from_revision(project, "HEAD", tmp_path).record("filter")
    finally:
        path.write_text(kept)
    assert (found.libraries, found.hardware) == (json.loads(kept)["libraries"], json.loads(kept)["hardware"])


def test_another_library_is_found_by_running_again(project: Path, tmp_path: Path) -> None:
    code, lines = reproduce(project, "HEAD", **other_xxhash(tmp_path), TOKENMILL_TRACKING="off")
    assert code == 1 and [line for line in lines if line.endswith("| bit-equal")] == lines[:3]
    assert "tokenize | diverged: " in lines[3] and lines[4] == "first difference: tokenize"
    assert [line for line in lines if "suspect: " in line or "  or: " in line] == lines[-1:]
    assert lines[-1].startswith("  suspect: library: xxhash ") and lines[-1].endswith(" -> 9.9.9")


def test_what_is_no_run_is_said_in_a_line(project: Path) -> None:
    code, lines = reproduce(project, "nowhere", TOKENMILL_TRACKING="off")
    assert code == 2 and lines == [
        "nowhere: neither a folder, nor a git revision here, nor the id of a run that MLflow knows"
    ]


@pytest.mark.parametrize(
    ("loss", "steps", "verdict"),
    [
        (2.0, 3, "equal"),
        (2.015, 3, "within"),
        (2.03, 3, "diverged"),
        (2.0, 4, "diverged"),
    ],
)
def test_curves_and_metrics_have_a_tolerance(loss: float, steps: int, verdict: str, tmp_path: Path) -> None:
    for side, value, count in (("a", 2.0, 3), ("b", loss, steps)):
        (tmp_path / side / "metrics").mkdir(parents=True)
        (tmp_path / side / "curves.jsonl").write_text(json.dumps({"step": 0, "loss": value}) + "\n")
        (tmp_path / side / "metrics" / "sft.json").write_text(json.dumps({"steps": count, "loss": value}))
        (tmp_path / side / "digests.jsonl").write_text(side)
    found: ToleranceResult = judge(tmp_path / "a", tmp_path / "b")
    assert found.within == (verdict != "diverged") and (found.worst == 0) == (verdict == "equal")
    assert (found.worst is None) == (steps == 4)

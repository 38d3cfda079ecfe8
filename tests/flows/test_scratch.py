"""What killed stages leave in .scratch: counted, and removed by `make clean` where no run goes on from it. Real stages."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.preflight.start import all_findings
from flows.staleness.scratch import abandoned, leftovers
from tests.processes import wait_for
from tests.project import ROOT, TINY, digest, run_stage, start_stage, write_params
from tests.tiny import Tiny

PARAMS = {**TINY, "curriculum": {**TINY["curriculum"], "tokens": 16384}}
OTHER = {**PARAMS, "pretrain": {**TINY["pretrain"], "clip": 2.0}}


@pytest.fixture(scope="module")
def made(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which pretraining was killed after a checkpoint."""
    project = tiny.project(tmp_path_factory.mktemp("made"), "tokenize", PARAMS)
    run_stage(project, "curriculum")
    process = started(project)
    process.kill()
    process.communicate()
    return project


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = shutil.copytree(made, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(copy)
    return copy


def started(project: Path) -> subprocess.Popen[str]:
    """Pretraining that has just written its first checkpoint."""
    there = set(project.glob(".scratch/pretrain/*/checkpoints/step-*.safetensors"))
    process = start_stage(project, "pretrain", TOKENMILL_CHECKPOINT_SECONDS="0")
    written = project.glob
    wait_for(
        lambda: set(written(".scratch/pretrain/*/checkpoints/step-*.safetensors")) - there,
        process,
    )
    return process


def clean(project: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flows.staleness.scratch"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def running(project: Path) -> Iterator[subprocess.Popen[str]]:
    """Pretraining that stands still in the midst of it, until it gets SIGCONT."""
    process = started(project)
    process.send_signal(signal.SIGSTOP)
    yield process
    process.kill()
    process.wait()


def test_what_a_run_goes_on_from_stays(project: Path) -> None:
    (project / ".scratch" / "preflight").mkdir()
    assert abandoned(project) == "" and [left.wanted for left in leftovers(project)] == [True]
    assert "MB): the stage goes on from it\n" in clean(project)
    assert sorted(path.name for path in (project / ".scratch").iterdir()) == ["locks", "pretrain"]
    assert list(project.glob(".scratch/pretrain/*/checkpoints/step-*.safetensors"))


def test_what_no_run_goes_on_from_is_counted_and_removed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (left,) = project.glob(".scratch/pretrain/*")
    shutil.copytree(left, left.with_name(f"{left.name}.0123abcd-7"))  # set aside of another kind of machine
    write_params(project, OTHER)
    total = sum(path.stat().st_size for path in project.glob(".scratch/pretrain/**/*") if path.is_file())
    said = abandoned(project)
    assert (
        said.startswith(f".scratch holds {total / 1e6:.1f} MB that no run goes on from, 2 of stages")
        and "(pretrain)" in said
    )
    all_findings(project, OTHER, [])
    assert said in capsys.readouterr().out
    assert clean(project).count("removed .scratch/pretrain/") == 2
    assert abandoned(project) == "" and not (project / ".scratch" / "pretrain").exists()


def test_a_running_stage_keeps_all_that_it_has(project: Path, running: subprocess.Popen[str]) -> None:
    """Under parameters that would no longer want it, too: the stage fails at its end then, or they are changed back."""
    write_params(project, OTHER)
    said = clean(project)
    assert "MB): the stage is running\n" in said and "removed" not in said
    assert "kept the rest of .scratch: a run, a server or an agent of this checkout is at work\n" in said
    write_params(project, PARAMS)
    running.send_signal(signal.SIGCONT)
    printed, _ = running.communicate()
    assert running.returncode == 0, printed
    whole = digest(project / "data" / "pretrain")
    shutil.rmtree(project / "data" / "pretrain")
    run_stage(project, "pretrain")
    assert digest(project / "data" / "pretrain") == whole

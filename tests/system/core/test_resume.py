"""A training stage that was killed, taken up on another kind of machine: real stages, whose instructions are set."""

import json
import shutil
from pathlib import Path

import pytest

from tests.processes import wait_for
from tests.project import digest, run_stage, start_stage
from tests.tiny import Tiny

OTHER = {"ATEN_CPU_CAPABILITY": "default"}  # such that torch has no vector instructions
SAID = "is of another kind of machine, which ends in other bytes"


@pytest.fixture(scope="module")
def made(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that is about to pretrain."""
    return tiny.project(tmp_path_factory.mktemp("made"), "curriculum")


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "project", symlinks=True)


@pytest.fixture(scope="module")
def alone(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of whole runs, on this kind of machine and on the other."""
    found = {}
    for kind, environment in (("here", {}), ("other", OTHER)):
        project = shutil.copytree(made, tmp_path_factory.mktemp(kind) / "project", symlinks=True)
        run_stage(project, "pretrain", **environment)
        found[kind] = digest(project / "data" / "pretrain")
    assert found["here"] != found["other"]
    return found


def checkpoints(project: Path) -> list[Path]:
    return sorted(project.glob(".scratch/pretrain/*/checkpoints/step-*.safetensors"))


def kill_after(project: Path, step: int, **environment: str) -> None:
    """SIGKILL of pretraining once it has written a checkpoint of so many steps."""
    moved = {path.parent.parent.name for path in checkpoints(project)}
    process = start_stage(project, "pretrain", TOKENMILL_CHECKPOINT_SECONDS="0", **environment)
    # its own folder has no dot in its name; where steps of another kind were left there, it moves these first
    wait_for(
        lambda: (
            len({path.parent.parent.name for path in checkpoints(project)}) != len(moved)
            and any(int(p.stem[5:]) >= step for p in checkpoints(project) if "." not in p.parent.parent.name)
        ),
        process,
    )
    process.kill()
    process.communicate()


def record(project: Path) -> dict[str, str]:
    return json.loads((project / "data" / "timings" / "pretrain.record.json").read_text())["hardware"]


def test_another_kind_of_machine_starts_anew_and_says_so(project: Path, alone: dict[str, str]) -> None:
    kill_after(project, 5)
    printed = run_stage(project, "pretrain", **OTHER)
    (said,) = [line for line in printed.splitlines() if SAID in line]
    assert said.startswith("pretrain: the checkpoint of step ") and "-> DEFAULT" in said
    assert digest(project / "data" / "pretrain") == alone["other"] and "went on" not in record(project)
    assert not checkpoints(project), "a finished stage left what had been set aside"


def test_it_goes_on_where_it_is_told_to(project: Path, alone: dict[str, str]) -> None:
    kill_after(project, 5)
    printed = run_stage(project, "pretrain", TOKENMILL_RESUME="anyway", **OTHER)
    assert SAID not in printed and "goes on at step" in printed
    assert digest(project / "data" / "pretrain") not in alone.values()
    assert record(project)["went on"].startswith("at step ") and "-> DEFAULT" in record(project)["went on"]


def test_what_was_set_aside_is_taken_up_again(project: Path, alone: dict[str, str]) -> None:
    """By its own kind of machine without being told; where it is told, by the other one too."""
    kill_after(project, 12)
    kill_after(project, 3, **OTHER)
    assert len({path.parent.parent for path in checkpoints(project)}) == 2
    copy = shutil.copytree(project, project.parent / "copy", symlinks=True)
    printed = run_stage(project, "pretrain")
    assert SAID not in printed and "goes on" not in printed
    assert digest(project / "data" / "pretrain") == alone["here"]
    printed = run_stage(copy, "pretrain", TOKENMILL_RESUME="anyway", **OTHER)
    assert int(printed.partition("goes on at step ")[2].split()[0]) >= 12


def test_the_same_kind_goes_on_in_silence(project: Path, alone: dict[str, str]) -> None:
    kill_after(project, 5)
    printed = run_stage(project, "pretrain")
    assert SAID not in printed and "goes on" not in printed
    assert digest(project / "data" / "pretrain") == alone["here"] and "went on" not in record(project)


def test_a_setting_that_is_none_is_refused(project: Path) -> None:
    process = start_stage(project, "pretrain", TOKENMILL_RESUME="yes")
    printed, _ = process.communicate()
    assert process.returncode == 2 and printed == "TOKENMILL_RESUME: must be anyway (got 'yes')\n"

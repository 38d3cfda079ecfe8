"""What lies in data/: what stages make, whichever there are, is in no commit and no copy; a user's folder is in no commit, and in a
copy."""

import shutil
import subprocess
from pathlib import Path

import pytest

from flows.workspaces.smoke import copy_project, project_files
from tasks.runner.git import git
from tests.project import ROOT

INPUTS = ["data/checkpoint/config.json", "data/preferences/own.jsonl", "data/problems/a/own.jsonl", "data/raw/a/b.txt"]
INPUTS += ["data/references/x.txt", "data/rewards/mine.py", "data/conversations/a.parquet"]
OWN = ["data/mine/a.jsonl", "data/mine/more/b.jsonl", "data/one.txt"]
MADE = ["data/sft/model.safetensors", "data/dpo/model.safetensors", "data/evaluate/rl/answers.jsonl"]
MADE += ["data/keys/dpo.json", "data/timings/rl.json", "data/report/index.html", "data/x.unfinished/part"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy with a stage more, and files of all kinds in data/."""
    folder = copy_project(ROOT, tmp_path / "project")
    text = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(
        text.replace("stages:\n", "stages:\n  dpo:\n    cmd: make dpo\n    outs: [data/dpo]\n", 1)
    )
    for name in (*INPUTS, *OWN, *MADE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")
    return folder


@pytest.mark.parametrize("repository", [True, False])
def test_a_copy_has_what_is_the_users_and_nothing_that_stages_make(
    project: Path, repository: bool, tmp_path: Path
) -> None:
    if not repository:
        shutil.rmtree(project / ".git")
    assert {*INPUTS, *OWN} <= set(project_files(project)) and {*MADE}.isdisjoint(project_files(project))
    copy = copy_project(project, tmp_path / "copy")
    assert all((copy / name).is_file() for name in (*INPUTS, *OWN)) and not any((copy / name).exists() for name in MADE)


def test_git_takes_inputs_where_they_belong_and_no_folder_of_a_users_own(project: Path) -> None:
    git(project, "add", "-A")
    staged = subprocess.run(
        ["git", "diff", "--cached", "--name-only"], cwd=project, capture_output=True, text=True, check=True
    ).stdout.split()
    assert sorted(staged) == sorted([*INPUTS, "dvc.yaml"])

"""Variants in worktrees of their own: two at once, nothing done twice, nothing of theirs in this checkout."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.synthetic import repository
from flows import variants
from flows.compare import differences, read_lock
from flows.environment import environment
from lm.config import ConfigError


def start(root: Path, *words: str) -> subprocess.Popen[str]:
    given = {**environment(root), "PYTHONPATH": str(root), "TOKENMILL_TRACKING": "off", "PREFECT_API_URL": ""}
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=root,
        env={name: value for name, value in given.items() if value},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == code, printed
    return printed


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of three stages, the input of which git does not hold, run once."""
    folder = repository(tmp_path_factory.mktemp("variants") / "project", 3)
    with (folder / ".gitignore").open("a") as file:
        file.write(".variants/\n")
    (folder / ".dvcignore").write_text(".variants/\n.scratch/\n")
    ended(start(folder, "flows.run"))
    return folder


def test_two_variants_at_once_share_what_was_made_before(root: Path) -> None:
    before = {path: path.read_bytes() for path in (root / "params.yaml", root / "dvc.lock")}
    both = [
        start(root, "flows.variants", "--name", name, "--set", f"s1.value={name[-1]}") for name in ("one-1", "two-2")
    ]
    for process in both:
        printed = ended(process)
        assert "Running stage 's1'" in printed and "Running stage 's0'" not in printed, printed
    assert all(path.read_bytes() == text for path, text in before.items())
    here = read_lock(root / "dvc.lock")
    for number, name in ((1, "one-1"), (2, "two-2")):
        there = read_lock(root / ".variants" / name / "dvc.lock")
        assert there["s1"]["params"] == {"params.yaml": {"s1": {"value": number}}}
        assert {s for s in here if differences(here[s], there[s])} == {"s1"}
    lines = ended(start(root, "flows.variants")).splitlines()
    assert [line.split("|")[:2] for line in lines] == [
        ["             one-1 ", " s1.value=1 "],
        ["             two-2 ", " s1.value=2 "],
    ]
    again = ended(start(root, "flows.variants", "--name", "one-1"))
    assert "nothing to do" in again
    ended(start(root, "flows.variants", "--name", "two-2", "--remove"))
    assert not (root / ".variants" / "two-2").exists() and (root / ".variants" / "one-1").exists()


@pytest.mark.parametrize("name", ["../up", "", "a/b", "-f", "a..b", "x" * 65, "a b"])
def test_a_name_stays_in_its_folder(root: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="NAME: .* must be letters"):
        variants.place(root, name)


def test_an_unknown_revision_leaves_nothing(root: Path) -> None:
    assert "git worktree: " in ended(start(root, "flows.variants", "--name", "lost", "--revision", "nowhere"), 2)
    assert not (root / ".variants" / "lost").exists()

"""Variants in worktrees of their own: two at once, nothing done twice, nothing of theirs in this checkout."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.synthetic import repository
from flows.environment import environment
from flows.staleness.compare import differences
from flows.workspaces import variants
from lm.config import ConfigError
from tasks.runner.lock import read_lock
from tests.report.tree import build

GIT = ("git", "-c", "user.name=n", "-c", "user.email=e")


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
    printed, _ = process.communicate()
    assert process.returncode == code, printed
    return printed


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of three stages, the input of which git does not hold, run once."""
    folder = repository(tmp_path_factory.mktemp("variants") / "project", 3)
    with (folder / ".gitignore").open("a") as file:
        file.write(".variants/\n")
    (folder / ".dvcignore").write_text(".variants/\n.scratch/\n")
    ended(start(folder, "flows.pipeline"))
    return folder


def test_two_variants_at_once_share_what_was_made_before(root: Path) -> None:
    before = {path: path.read_bytes() for path in (root / "params.yaml", root / "dvc.lock")}
    both = [
        start(root, "flows.workspaces.variants", "--name", name, "--set", f"s1.value={name[-1]}")
        for name in ("one-1", "two-2")
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
    lines = ended(start(root, "flows.workspaces.variants")).splitlines()
    assert [line.split("|")[:2] for line in lines] == [
        ["             one-1 ", " s1.value=1 "],
        ["             two-2 ", " s1.value=2 "],
    ]
    again = ended(start(root, "flows.workspaces.variants", "--name", "one-1"))
    assert "nothing to do" in again
    ended(start(root, "flows.workspaces.variants", "--name", "two-2", "--remove"))
    assert not (root / ".variants" / "two-2").exists() and (root / ".variants" / "one-1").exists()


@pytest.mark.parametrize("name", ["../up", "", "a/b", "-f", "a..b", "x" * 65, "a b"])
def test_a_name_stays_in_its_folder(root: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="NAME: .* must be letters"):
        variants.variant_path(root, name)


def test_a_name_of_two_words_an_unknown_one_and_another_revision_are_one_line_and_make_nothing(root: Path) -> None:
    said = ended(start(root, "flows.workspaces.variants", "--name", "two", "words", "--revision", "HEAD"), 2)
    assert said == "NAME: 'two words': a name is one word\n" and not (root / ".variants" / "two").exists()
    said = ended(start(root, "flows.workspaces.variants", "--name", "nobody", "--remove"), 2)
    assert said.startswith("NAME: there is no variant 'nobody' (there are: ") and said.count("\n") == 1
    variants.create_variant(root, "old", "HEAD")
    subprocess.run([*GIT, "commit", "--quiet", "--allow-empty", "--message", "later"], cwd=root, check=True)
    said = ended(start(root, "flows.workspaces.variants", "--name", "old", "--revision", "HEAD~1"))
    assert "ran: nothing" in said
    subprocess.run([*GIT, "tag", "newest"], cwd=root, check=True)
    said = ended(start(root, "flows.workspaces.variants", "--name", "old", "--revision", "newest"), 2)
    assert said.startswith("REV: the variant old has the code of ") and said.count("\n") == 1
    said = ended(start(root, "flows.workspaces.variants", "--name", "old"))
    assert "this checkout is at" in said and "nothing to do" in said
    variants.remove_variant(root, "old")


def test_a_variant_of_a_project_that_was_moved_has_its_cache_and_can_be_taken_away(tmp_path: Path) -> None:
    before = repository(tmp_path / "before", 2)
    with (before / ".gitignore").open("a") as file:
        file.write(".variants/\n")
    (before / ".dvcignore").write_text(".variants/\n.scratch/\n")
    ended(start(before, "flows.pipeline"))
    ended(start(before, "flows.workspaces.variants", "--name", "one", "--set", "s1.value=1"))
    after = before.rename(tmp_path / "after")
    shutil.rmtree(after / "data" / "s1")
    said = ended(
        start(after, "flows.workspaces.variants", "--name", "one", "--set", "s1.value=0")
    )  # as this checkout made it
    assert "ran: nothing" in said and "Running stage" not in said, said
    ended(start(after, "flows.workspaces.variants", "--name", "two", "--set", "s1.value=2"))
    assert str(before) not in (after / ".variants" / "one" / ".dvc" / "config.local").read_text()
    assert not before.exists()
    for name in ("one", "two"):
        ended(start(after, "flows.workspaces.variants", "--name", name, "--remove"))
    assert not any((after / ".variants").iterdir())


def test_the_table_has_the_figures_of_each_and_their_difference(tmp_path: Path) -> None:
    build(tmp_path)
    other, none = (build(make_folder(tmp_path / ".variants" / name)) for name in ("other", "unvouched"))
    path = other / "data" / "metrics" / "evaluate@rl.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "bits_per_byte": 1.5, "accuracy": 0.9, "size_bytes": 2_160_750})
    )
    (other / "params.yaml").write_text((other / "params.yaml").read_text().replace("seed: 7", "seed: 8"))
    (none / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")  # its metrics are of no run that it records
    rows = [[cell.strip() for cell in line.split("|")] for line in variants.all_of_them(tmp_path).splitlines()]
    assert rows == [
        ["variant", "differs from here in", "model", "bits/byte", "accuracy", "size"],
        ["(here)", "", "pretrain", "1.875", "12.5%", "4.32 MB"],
        ["", "", "rl", "1.999", "87.5%", "4.32 MB"],
        ["other", "seed=8", "pretrain", "1.875 (+0.000)", "12.5% (+0.0)", "4.32 MB (+0.0%)"],
        ["", "", "rl", "1.500 (-0.499)", "90.0% (+2.5)", "2.16 MB (-50.0%)"],
        ["unvouched", "as here", "not evaluated"],
    ]
    shutil.rmtree(other / "data" / "evaluate" / "rl")  # figures of what is not here
    assert [row for row in variants.all_of_them(tmp_path).splitlines() if "1.500" in row] == []


def make_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_an_unknown_revision_leaves_nothing(root: Path) -> None:
    assert "git worktree: " in ended(
        start(root, "flows.workspaces.variants", "--name", "lost", "--revision", "nowhere"), 2
    )
    assert not (root / ".variants" / "lost").exists()

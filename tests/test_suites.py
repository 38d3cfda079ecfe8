"""`make test` and `make test-system` are everything: no test file stands in neither, none in both."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.project import ROOT


def files_of(target: str) -> set[Path]:
    """The test files of a command of make: those below the folders that its pytest is given, less what it ignores."""
    recipe = re.search(rf"^{target}:.*\n\t@(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    *_, given = re.sub(r"\$\(if \$\(TORCH\),[^,)]*,([^)]*)\)", r"\1", recipe[1]).rpartition("--changed)")
    words = given.split()
    ignored = [word.partition("=")[2] for word in words if word.startswith("--ignore=")]
    found = {p.relative_to(ROOT) for w in words if not w.startswith("-") for p in (ROOT / w).rglob("test_*.py")}
    return {path for path in found if not any(path.is_relative_to(folder) for folder in ignored)}


def test_the_two_are_every_test_file_once() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*test_*.py"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("no git to list the files")
    every = {Path(name) for name in listed.stdout.splitlines() if Path(name).name.startswith("test_")}
    every = {path for path in every if (ROOT / path).exists()}
    quick, system = files_of("test"), files_of("test-system")
    assert len(quick) > 100 and len(system) > 20
    assert quick | system == every and not quick & system


def test_both_are_run_before_a_change_lands() -> None:
    commands = re.findall(r"^make (test\S*)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert commands == ["test", "test-system"]


def test_a_file_with_seconds_is_there() -> None:
    """Else it has moved, and its test begins last."""
    known = re.findall(r'"(.+?)":', (ROOT / "tests" / "seconds.json").read_text())
    assert [name for name in known if not (ROOT / name).exists()] == []

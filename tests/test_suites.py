"""`make test` and `make test-system` are everything: no test file stands in neither, none in both."""

import gc
import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.forks.process import TRAINING, started
from tests.project import ROOT
from tests.share import parse_share, split_by_seconds


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
    """All of the first, and of the second one share."""
    commands = re.findall(r"^make (test\S*)(.*)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert commands == [("test", ""), ("test-system", " SHARE=$tenth/10")]


@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), st.integers(0, 300), min_size=1), st.integers(1, 5))
def test_the_parts_are_every_file_once_and_about_as_long(seconds: dict[str, int], parts: int) -> None:
    unknown = {"of no known seconds"}
    found = split_by_seconds([*seconds, *unknown], seconds, parts)
    assert len(found) == parts and set().union(*found) == {*seconds} | unknown
    assert sum(map(len, found)) == len(seconds) + 1
    took = [sum(seconds.get(name, 1) for name in part) for part in found]
    assert max(took) - min(took) <= max(1, *seconds.values())  # the last one dealt went to the part that had least


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", ""])
def test_what_is_no_share_is_said(text: str) -> None:
    with pytest.raises(pytest.UsageError, match="such as 2/3"):
        parse_share(text)


def test_two_shares_collect_what_the_whole_does() -> None:
    words = ["-q", "--collect-only", "tests/test_suites.py", "tests/core/test_say.py"]
    asked = [["--share", "1/2"], ["--share", "2/2"], []]
    begun = [started("pytest", [*words, *share], ROOT, dict(os.environ), TRAINING) for share in asked]
    one, other, whole = ([line for line in each.communicate()[0].splitlines() if "::" in line] for each in begun)
    assert one and other and sorted(one + other) == sorted(whole)


def test_a_file_with_seconds_is_there() -> None:
    """Else it has moved, and its test begins last."""
    known = re.findall(r'"(.+?)":', (ROOT / "tests" / "seconds.json").read_text())
    assert [name for name in known if not (ROOT / name).exists()] == []


def test_what_was_imported_and_collected_is_left_out_of_the_search_for_garbage() -> None:
    """And what tests leave is not."""
    assert gc.get_freeze_count() > 50_000 and gc.isenabled()

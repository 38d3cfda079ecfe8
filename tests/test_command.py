"""`tokenmill`: every command starts, says what it takes, answers in JSON where it says so, and is what make calls."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forks.process import run_forked
from tests.project import ROOT
from tokenmill import COMMANDS, refusal, surroundings

MAKEFILE = (ROOT / "Makefile").read_text()


def tokenmill(*words: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENMILL_TRACKING": "off"}
    return subprocess.run(
        [sys.executable, "-m", "tokenmill", *words], cwd=ROOT, env=given, capture_output=True, text=True
    )


def answer(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The same of the process that `tokenmill` becomes, forked: it need not import what others have."""
    return run_forked(COMMANDS[name].module, list(words), ROOT, {**surroundings(ROOT), "TOKENMILL_TRACKING": "off"})


def source_of(name: str) -> str:
    place = ROOT / COMMANDS[name].module.replace(".", "/")
    parts = [place / "command.py", place / "__main__.py", place.with_suffix(".py")]  # the first of these that there is
    return next(path for path in parts if path.exists()).read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_takes_under_its_name(name: str) -> None:
    text = source_of(name)  # to run them all takes a minute, most of it imports
    assert f'prog="tokenmill {name}"' in text and ("take_json(parser)" in text) == COMMANDS[name].json


def test_help_is_asked_of_the_command() -> None:
    done = tokenmill("trace", "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: tokenmill trace ") and "--json" in done.stdout


def test_make_calls_it_and_has_a_target_of_each_name() -> None:
    called = set(re.findall(r"^\t@python -m tokenmill (\w+)", MAKEFILE, re.M))
    assert called == set(COMMANDS)
    for name in COMMANDS:
        assert re.search(rf"^{name}: [^\n]*\n\t@python -m tokenmill {name}\b", MAKEFILE, re.M), name


def test_every_command_is_listed_and_one_that_is_not_is_a_line() -> None:
    listed = tokenmill()
    assert listed.returncode == 0 and all(f"\n  {name} " in listed.stdout for name in COMMANDS)
    done = tokenmill("piplin", "--json")
    assert (done.returncode, done.stdout) == (2, "") and "did you mean 'pipeline'?" in done.stderr


def test_a_command_works_on_the_checkout_that_it_starts_in(tmp_path: Path) -> None:
    assert refusal("why", ROOT) == ""
    assert (
        refusal("why", ROOT / "flows")
        == f"go to {ROOT}, in which this folder is: a command works on the folder that it starts in"
    )
    assert refusal("why", tmp_path) == f"{tmp_path} is no checkout of Tokenmill"
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")  # of another project, with ours on Python's path
    assert refusal("why", tmp_path) == ""


@pytest.mark.parametrize("words", [["show"], ["settings"], ["why", "evaluate"], ["variant"]], ids=" ".join)
def test_an_answer_for_programs_is_one_json_value(words: list[str]) -> None:
    done = answer(*words, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if words == ["show"]:
        # and where the models have been evaluated, how they compare
        compared = set(found["stages"]["evaluate@rl"]) - {"up_to_date", "model", "metrics", "timings"}
        assert compared in (set(), {"beside", "frontier"})
        assert {"up_to_date", "model", "metrics", "timings"} <= set(found["stages"]["evaluate@rl"])
    if words == ["why", "evaluate"]:
        assert {one["stage"].partition("@")[0] for one in found} == {"evaluate"}
        assert {one["state"] for one in found} <= {"stale", "may run", "up to date"}
    if words == ["settings"]:
        assert {"name", "value", "given", "error"} <= set(found[0])


def test_a_mistake_is_a_line_and_no_json() -> None:
    for words in (
        ["why", "pretrian"],
        ["show", "pretrian"],
        ["bisect", "nothing", "."],
        ["plan", "--set", "rl.stepss=1"],
    ):
        done = answer(*words, "--json")
        assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1, done.stderr


def test_the_command_itself_takes_no_time() -> None:
    """It is of the standard library alone, so that a no-op of the pipeline is what the pipeline takes."""
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", "import sys, tokenmill; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split()
    tops = {name.partition(".")[0] for name in loaded}
    assert tops <= set(sys.stdlib_module_names) | {"tokenmill", "__main__"}, tops

"""`tokenmill`: every command starts, says what it takes, answers in JSON where it says so, and is what make calls."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tests.mutants.__main__ as planting
from benchmarks import run as bench
from benchmarks import table
from tests.called import called
from tests.forks.process import run_forked
from tests.project import ROOT
from tokenmill import COMMANDS, refusal, surroundings

MAKEFILE = (ROOT / "Makefile").read_text()
# What answers no question of figures, plans or reasons, each by what it does.
DO_AND_SAY = {
    "repro": "brings up to date what `show` and `why` then tell",
    "smoke": "brings a small copy up to date, in which `show` then tells",
    "ui": "serves pages until it is ended",
    "agent": "serves stages until it is ended",
    "chat": "talks with a person",
    "serve": "serves an API until it is ended",
}
# The same of what make runs that is no command of tokenmill.
OF_MAKE = {
    "benchmarks.gpu": "appends a row to a file of JSON lines the moment it is known",
    "benchmarks.peers": "makes an environment",
    "flows.staleness.scratch": "takes away what runs have left",
    "pip": "makes wheels",
    "pytest": "has reports of its own, such as --junit-xml",
}


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
    assert f'prog="tokenmill {name}"' in text and ("add_json_option(parser)" in text) == COMMANDS[name].json


def test_whatever_tells_figures_plans_or_reasons_tells_them_to_programs() -> None:
    """It takes --json, or is listed with what it does in place of telling."""
    assert {name for name, command in COMMANDS.items() if not command.json} == set(DO_AND_SAY)
    others = set(re.findall(r"python -m ([\w.]+)", MAKEFILE)) - {"tokenmill"}
    for module in others - set(OF_MAKE):
        place = ROOT / module.replace(".", "/")
        path = next(path for path in (place / "__main__.py", place.with_suffix(".py")) if path.exists())
        assert "add_json_option(parser)" in path.read_text(), module
    assert set(OF_MAKE) < others == {"benchmarks.run", "benchmarks.table", "tests.mutants", *OF_MAKE}


def test_what_make_runs_tells_it_in_one_json_value(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"bench": "toy", "impl": name, "peer": None, "metric": "time", "date": "1"} for name in ("a", "b")]
    monkeypatch.setattr(table, "read", lambda: rows)
    monkeypatch.setattr(table, "doubts", lambda shown: ["", "is old"])
    assert [row["mark"] for row in json.loads(called(table.main, "--json").stdout)] == ["", "is old"]

    def benchmark(name: str, threads: int) -> list[dict[str, Any]]:
        print(f"{name} by {threads}")
        return rows

    monkeypatch.setattr(bench, "run", benchmark)
    for name in bench.THREADS:  # which it sets for its own process
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    done = called(bench.main, "roofs", "--threads", "1", "--json")
    assert json.loads(done.stdout) == rows and done.stderr == "roofs by 1\n"

    monkeypatch.setattr(planting, "copy_project", lambda root, folder: folder)
    monkeypatch.setattr(planting, "verdict", lambda mutant, root, known: ("", "survived"))
    done = called(planting.main, "--room", "prune", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and {bug["room"] for bug in found} == {"prune"}
    assert {(bug["caught_by"], bug["why_not"]) for bug in found} == {(None, "survived")}


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

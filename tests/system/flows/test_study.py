"""A study of real runs: killed at any moment it ends in the same table, and what is known is not run again."""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.environment import environment
from flows.workspaces.smoke import copy_project
from tests.processes import wait_for
from tests.project import ROOT

# Six steps of a model of 30,000 weights: a run is little more than the start of its stages
SMALL = """
room: pretrain.optimizer
baseline: adamw
arms: {adamw: {method: {name: adamw}}, muon: {method: {name: muon}}}
tune: {pretrain.optimizer.lr: [0.002, 0.02]}
trials: 2
seeds: 3
looks: 1
budget: {tokens: 6144}
preset: smoke
set:
- "pretrain.model={width: 32, layers: 2, heads: 2, kv_heads: 1, ffn_width: 48, context: 64}"
- "curriculum.method={name: shuffled_packing, sequence_length: 64}"
- evaluate.problems_counted=1
- ingest.max_bytes=60000
"""
RUNS = 3 * (2 + 3)
DONE = RUNS - 2  # the baseline's second self has the trials of the first


def start(root: Path, *words: str) -> subprocess.Popen[str]:
    given = {**environment(root), "PYTHONPATH": str(root), "TOKENMILL_TRACKING": "off"}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.arena", *words],
        cwd=root,
        env=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def table(root: Path) -> dict[str, Any]:
    """The result without what is of the clock."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            left = {k: timeless(v) for k, v in value.items() if k not in ("seconds", "date", "command")}
            return {k: v for k, v in left.items() if v != {"quantity": "seconds"}}
        if isinstance(value, list):
            return [
                timeless(each) for each in value if not (isinstance(each, dict) and each.get("quantity") == "seconds")
            ]
        return value

    found = timeless(json.loads((root / ".studies" / "small" / "result.json").read_text()))
    for arm in found["arms"]:
        for run in arm["runs"]:
            run["curve"] = [[tokens, loss] for tokens, _, loss in run["curve"]]
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the study has been held, once, in one go."""
    folder = tmp_path_factory.mktemp("study") / "project"
    folder.mkdir()
    copy_project(ROOT, folder)
    (folder / "studies" / "small.yaml").write_text(SMALL)
    process = start(folder, "--study", "studies/small.yaml")
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert f"{RUNS}/{RUNS}" in printed and "adamw" in printed and "page:" in printed
    return folder


def test_the_command_of_the_readme_is_held_on_a_folder_of_ones_own(root: Path, tmp_path: Path) -> None:
    """Beside the checkout, as the README names it, in variants that stand one folder deeper."""
    copy, texts = tmp_path / "project", tmp_path / "my-text"
    copy.mkdir()
    copy_project(root, copy)
    (texts / "deeper").mkdir(parents=True)
    for number in range(40):
        place = texts / ("deeper" if number % 2 else "") / f"{number}.txt"
        place.write_text(f"This is text {number} of mine, and it is about the number {number * number}. " * 60)
    [line] = re.findall(r"`make study (ROOM=.*my-text.*)`", (copy / "README.md").read_text())
    given = dict(word.split("=", 1) for word in shlex.split(line))
    small = " ".join(str(value) for value in yaml.safe_load(SMALL)["set"])
    words = ["--room", given["ROOM"], "--methods", *given["METHODS"].split(), "--set", f"{given['SET']} {small}"]
    process = start(copy, *words, "--trials", "1", "--seeds", "3", "--budget", "tokens=6144")
    printed, _ = process.communicate()
    assert process.returncode == 0 and "muon" in printed, printed
    (result,) = (copy / ".studies").glob("pretrain-optimizer*/result.json")
    runs = [run for arm in json.loads(result.read_text())["arms"] for run in arm["runs"]]
    assert len(runs) == 6 and all(run["value"] for run in runs)
    process = start(copy, *words, "--set", "ingest.folder=../nowhere")
    printed, _ = process.communicate()
    assert process.returncode == 2 and "nowhere" in printed and len(printed.splitlines()) == 1, printed


def test_methods_of_a_stage_behind_pretraining_differ_in_what_its_model_does(tmp_path: Path) -> None:
    """Both were one run, measured before the stage that they are of."""
    copy = tmp_path / "project"
    copy.mkdir()
    copy_project(ROOT, copy)
    small = " ".join(str(value) for value in yaml.safe_load(SMALL)["set"])
    words = ["--room", "quantize.method", "--methods", "gptq", "int8", "--preset", "smoke", "--set", small]
    process = start(copy, *words, "--seeds", "3", "--budget", "tokens=6144")
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    (page,) = (copy / ".studies").glob("quantize-method-*/index.html")
    result = json.loads((page.parent / "result.json").read_text())
    assert (result["measure"]["stage"], result["measure"]["name"]) == ("evaluate@quantize", "bits_per_byte")
    (row,) = [row for row in result["comparisons"] if row["quantity"] == "value"]
    assert row["pairs"] == 3 and row["ratio"] != 1
    assert result["date"] and result["machine"] and result["commit"]
    process = start(copy, *words, "--seeds", "3", "--budget", "tokens=6144", "--measure", "evaluate@pretrain.accuracy")
    printed, _ = process.communicate()
    assert process.returncode == 2 and "the same run as the baseline" in printed and len(printed.splitlines()) == 1


def test_what_is_known_is_not_run_again(root: Path) -> None:
    before = (root / ".studies" / "runs.jsonl").read_bytes()
    process = start(root, "--study", "studies/small.yaml", "--json")
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert (root / ".studies" / "runs.jsonl").read_bytes() == before
    assert not (root / ".variants").exists() or not list((root / ".variants").iterdir())


def test_arms_see_the_same_data_and_have_as_many_trials(root: Path) -> None:
    found = table(root)
    assert [len(arm["trials"]) for arm in found["arms"]] == [2, 2]
    assert not [line for line in found["warnings"] if "data" in line or "tokens" in line]
    assert all(len(run["curve"]) == 6 for arm in found["arms"] for run in arm["runs"])
    assert {row["arm"]: row["pairs"] for row in found["comparisons"]} == {"muon": 3}
    values = [run["value"] for arm in found["arms"] for run in arm["runs"]]
    assert len(set(values)) == len(values)  # no two runs are one


def test_killed_at_random_moments_it_ends_in_the_same_table(root: Path, tmp_path: Path) -> None:
    """At ten, each after another number of runs or while one goes on."""
    copy = tmp_path / "project"
    copy.mkdir()
    copy_project(root, copy)
    draw = random.Random(0)
    for done in sorted(draw.sample(range(DONE + 1), 10)):
        process = start(copy, "--study", "studies/small.yaml")
        wait_for(lambda done=done: lines(copy) >= done, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    process = start(copy, "--study", "studies/small.yaml")
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    ours, theirs = table(copy), table(root)
    assert {**ours, "commit": ""} == {**theirs, "commit": ""}


def lines(root: Path) -> int:
    path = root / ".studies" / "runs.jsonl"
    return sum(bool(line.strip()) for line in path.read_text().splitlines()) if path.exists() else 0


def test_code_that_is_not_committed_is_one_line(root: Path) -> None:
    path = root / "lm" / "optimizers" / "adamw.py"
    before = path.read_text()
    path.write_text(before + "\n# another\n")
    try:
        process = start(root, "--study", "studies/small.yaml")
        printed, _ = process.communicate()
    finally:
        path.write_text(before)
    assert process.returncode == 2
    assert printed.strip().splitlines()[-1].startswith("lm/optimizers/adamw.py: not committed")

"""No stale hit: whatever decides a stage's output is flipped, and in no case does the stage count as up to date.

In a copy of the project, all stages run once by DVC, audited. Status is asked, many flips at a time where each belongs to one
stage, and DVC's run cache: for its key, of every flip, and for what it gives back, of one flip of every stage.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from contextlib import suppress
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from dvc.stage.cache import _get_cache_hash

from flows.environment import environment
from flows.params.compose import compose, libraries, override, write
from flows.staleness.plan import make_plan, may_run
from flows.workspaces.smoke import copy_project
from tasks.core.config import SHARED, ConfigError, load, read_params
from tasks.core.yaml import dump_yaml, read_yaml
from tasks.runner.graph import Entry, read_graph, value_at
from tasks.runner.key import stage_key
from tests.core.test_libraries import other_version
from tests.flows.flips import places, with_flip, with_value
from tests.imports import closure, is_room
from tests.project import ROOT, TINY, digest
from tests.test_architecture import chosen_methods, is_without_code

# The work is as little as can be: what takes the time is twelve processes that import torch.
LITTLE: dict[str, dict[str, Any]] = {
    "ingest": {"sources": [{"name": "worksheets", "digits": 1}, {"name": "jsonl", "path": "*.jsonl"}]},
    "dedup": {"near": {"name": "minhash", "shingle_words": 5, "threshold": 0.6}},
    "filter": {
        "quality": {
            **{"name": "gopher_quality", "sources": ["jsonl"], "min_words": 5, "min_stop_words": 0},
            **{"min_alphabetic_fraction": 0.5, "max_mean_word_length": 14.0},
        }
    },
    "curriculum": {"tokens": 512},
    "sft": {"steps": 1},
    "preference": {"steps": 1, "batch": 2, "pairs": [{"name": "files"}]},
    "reward": {"steps": 1, "batch": 2, "pairs": [{"name": "files"}]},
    "rl": {
        "steps": 1,
        "model": "preference",
        "scorer": "reward",
        "rewards": [{"name": "correct"}, {"name": "model"}],
    },
    "lessons": {"steps": 1},
    "distill": {"steps": 1},
    "quantize": {"model": "prune"},
    "evaluate": {"problems_counted": 4},
}
PARAMS = {
    section: value | LITTLE.get(section, {}) if isinstance(value, dict) else value for section, value in TINY.items()
} | {"models": ["pretrain", "quantize"]}  # of evaluate, which is one definition, two are enough
# A parameter of each stage whose other value shows in its output.
OTHER = {
    "ingest": ("ingest.max_bytes", 20_000),
    "dedup": ("dedup.near.shingle_words", 1),
    "filter": ("filter.quality.min_words", 50),
    "tokenize": ("tokenize.held_out_fraction", 0.5),
    "curriculum": ("curriculum.tokens", 256),
    "pretrain": ("pretrain.optimizer.lr", 0.01),
    "sft": ("sft.batch", 8),
    "preference": ("preference.batch", 3),
    "reward": ("reward.batch", 3),
    "rl": ("rl.max_new_tokens", 8),
    "lessons": ("lessons.batch", 4),
    "distill": ("distill.batch", 4),
    "prune": ("prune.weights.share", 0.25),
    "quantize": ("quantize.method.group", 16),
    "evaluate@pretrain": ("evaluate.problems_counted", 3),
}
Version = namedtuple("Version", "major minor micro releaselevel serial")  # noqa: PYI024 - as that of Python


def surroundings_of(folder: Path) -> dict[str, str]:
    """The environment of a stage's process there."""
    more = {"TOKENMILL_TRACKING": "off", "TOKENMILL_THREADS": "1", "PYTHONPATH": str(folder)}
    return environment(folder) | more


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages up to date, run with two workers; its dvc.lock and DVC's cache are real."""
    folder = copy_project(ROOT, tmp_path_factory.mktemp("project"))
    row = '{"text": "%s"}\n'
    (folder / "data/raw/a.jsonl").write_text(
        "".join(row % f"the {n} of {n * n} things that are told here" for n in range(300))
    )
    pair = '{"prompt": "%s+1=", "chosen": "%s", "rejected": "none"}\n'
    (folder / "data/preferences/a.jsonl").write_text("".join(pair % (n, n + 1) for n in range(30)))
    for name in ("problems", "checkpoint", "references", "conversations", "rewards", "tasks", "teachers", "assistants"):
        (folder / "data" / name / "given.txt").write_text("one\ntwo\nthree\n")
    (folder / "dvc.lock").unlink()
    (folder / "params.yaml").write_text(dump_yaml(PARAMS))
    write(folder, compose(folder, "current", []))
    surroundings = surroundings_of(folder) | {"TOKENMILL_AUDIT": "1", "TOKENMILL_SHARD_WORKERS": "2"}
    done = subprocess.run(
        # lessons lead to nothing while a living teacher teaches: they are asked for
        [sys.executable, "-m", "dvc", "repro", "-q", "evaluate", "lessons"],
        cwd=folder,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for command in (["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "ran"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def graph(project: Path) -> dict[str, Entry]:
    return read_graph(project)


@pytest.fixture(autouse=True)
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the project, which is as it was again afterwards."""
    monkeypatch.chdir(project)
    yield
    subprocess.run(["git", "checkout", "-q", "--", "."], check=True)
    subprocess.run(["git", "clean", "-qfd"], check=True)


def reasons() -> dict[str, str]:
    """Why each stale stage is, as the plan says it."""
    every = list(read_graph())  # what leads to nothing once a model is flipped is stale all the same
    return {stage.address: stage.reason for stage in make_plan(Path.cwd(), every) if stage.reason}


def test_it_begins_with_everything_up_to_date(project: Path) -> None:
    assert may_run(make_plan(project, [])) == []


def test_every_stage_kept_inside_its_key_and_read_all_that_it_declares(graph: dict[str, Entry]) -> None:
    for address, entry in graph.items():
        record = json.loads(Path(f".scratch/audit/{address}.json").read_text())
        assert record["outside"] == []
        assert set(record["params"]) == {name for name in entry.params if not name.startswith("libraries.")}, address
        made = [f"data/{before}/" for before in graph if f"data/{before}" in entry.deps]
        if address != "quantize":  # what it calibrates with, rtn does not need
            assert [d for d in made if not any(f.startswith(d) for f in record["files"]["dependency"])] == []


def test_every_parameter_flipped_makes_the_stages_stale_that_declare_it(graph: dict[str, Entry]) -> None:
    params = read_params()
    del params["libraries"], params["models"]  # what is asked for decides no stage's bytes
    waiting = {section: places(value, (section,)) for section, value in params.items()}
    assert sum(map(len, waiting.values())) > 60
    stages = {entry.name for entry in graph.values()}
    shared = [section for section in waiting if section not in stages]
    while any(waiting.values()):
        # one key of each stage's own section, or one of a section that several stages read
        now = [waiting[s].pop() for s in waiting if s in stages and waiting[s]] or [
            next(waiting[s].pop() for s in shared if waiting[s])
        ]
        changed = params
        for place in now:
            changed = with_flip(changed, place)
        Path("params.yaml").write_text(dump_yaml({**read_params(), **changed}))
        found = reasons()
        for place in now:
            key = ".".join(map(str, place))
            for address, entry in graph.items():
                if place[0] in entry.params:
                    assert f"{key}: " in found.get(address, ""), (key, address, found.get(address))


def test_every_parameter_flipped_is_another_key_of_the_run_cache(graph: dict[str, Entry]) -> None:
    """It would answer for a parameter that its key leaves out, whatever the stage's status says."""
    params, stages = read_params(), read_yaml(Path("dvc.lock"))["stages"]
    flips = [place for section, value in params.items() for place in places(value, (section,))]
    counted = 0
    for address, entry in graph.items():
        keys = {run_cache_key(stages[address], entry.declared(params))}
        for place in flips:
            if (place[0] if place[0] != "libraries" else ".".join(place)) in entry.params:
                key = run_cache_key(stages[address], entry.declared(with_flip(params, place)))
                assert key not in keys, (address, place)
                keys.add(key)
                counted += 1
    assert counted > 200


def run_cache_key(locked: dict[str, Any], params: dict[str, Any]) -> str:
    """DVC's key of a run with these parameters."""
    outs = [dict(out) for out in locked["outs"]]
    return _get_cache_hash({**locked, "params": {"params.yaml": params}, "outs": outs}, key=True)


@pytest.mark.parametrize("address", OTHER)
def test_a_value_and_another_in_turn_give_the_bytes_of_each(
    address: str, project: Path, graph: dict[str, Entry]
) -> None:
    """By DVC alone: the other value is run, and then both come back from its run cache."""
    out, (name, value) = Path(graph[address].outs[0]), OTHER[address]
    texts = {
        "one": Path("params.yaml").read_text(),
        "other": dump_yaml(override(read_params(), f"{name}={value}")),
    }
    made, said = {"one": [digest(out)], "other": list[str]()}, []
    for turn in ("other", "one", "other", "one"):
        Path("params.yaml").write_text(texts[turn])
        command = [sys.executable, "-m", "dvc", "repro", "--single-item", address]
        done = subprocess.run(command, env=surroundings_of(project), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        said.append("is cached - skipping run" in done.stdout)
        made[turn].append(digest(out))
    assert said == [False, True, True, True]
    assert {turn: len(set(found)) for turn, found in made.items()} == {"one": 1, "other": 1}
    assert made["one"][0] != made["other"][0]


def test_equal_numbers_are_one_value_to_dvc_and_to_the_stage_key(graph: dict[str, Entry]) -> None:
    """1, 1.0 and true are equal in Python, by which DVC compares: whichever of them stands there, nothing is stale, the key is
    the same, and the stage either refuses the value or takes it for the same."""
    params = read_params()
    changed, rewritten = params, 0
    for place in [place for section, value in params.items() for place in places(value, (section,))]:
        before = reduce(getitem, place, params)
        if not isinstance(before, int | float) or before != int(before):
            continue
        other: Any = int(before) if isinstance(before, float | bool) else float(before)
        changed, rewritten = with_value(changed, place, other), rewritten + 1
        if place[0] not in SHARED:
            kind = getattr(importlib.import_module(f"tasks.{place[0]}.stage"), f"{place[0].capitalize()}Config")
            with suppress(ConfigError):
                assert load(place[0], kind, with_value(params, place, other)) == load(place[0], kind, params), place
    assert rewritten >= 30 and json.dumps(changed) != json.dumps(params)
    for entry in graph.values():
        assert stage_key(entry, {}, changed) == stage_key(entry, {}, params)
    Path("params.yaml").write_text(dump_yaml(changed))
    assert reasons() == {}


def test_every_library_of_another_version_makes_the_stages_stale_that_declare_it(
    project: Path, graph: dict[str, Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As other versions are installed and `make pipeline` composes the parameters: all of them, and then some by themselves."""
    before, names = read_params()["libraries"], libraries(project)
    for changed in (names, ["torch"], ["duckdb"], ["python"]):
        with monkeypatch.context() as patched:
            for name in changed:
                if name == "python":
                    patched.setattr(sys, "version_info", Version(3, 99, 0, "final", 0))
                else:
                    patched.syspath_prepend(str(other_version(tmp_path / changed[0] / name, name, "0.0.1")))
            write(project, compose(project, "current", []))
        after = read_params()["libraries"]
        assert {name for name in names if after[name] != before[name]} == set(changed)
        for stage in make_plan(project, []):
            declared = [name for name in changed if f"libraries.{name}" in graph[stage.address].params]
            words = {change.words.replace("'", "") for change in stage.changes}
            assert words == {f"libraries.{name}: {before[name]} -> {after[name]}" for name in declared}, stage.address


def files_of(entry: Entry) -> set[str]:
    """The files of ours that decide a stage's output: those it imports, but for packages that only list or are empty."""
    files = closure(ROOT / "tasks" / entry.name / "stage.py").union(*(closure(path) for path in chosen_methods(entry)))
    return {
        path.relative_to(ROOT).as_posix()
        for path in files
        if not (path.name == "__init__.py" and (is_room(path) or is_without_code(path)))
    }


def test_every_file_that_a_stage_imports_makes_it_stale(project: Path, graph: dict[str, Entry]) -> None:
    """All at once, each of them named by the plan."""
    imported = {address: files_of(entry) for address, entry in graph.items()}
    for name in set().union(*imported.values()):
        with Path(name).open("a") as file:
            file.write("\nADDED = 1\n")
    for stage in make_plan(project, []):
        named = {change.path for change in stage.changes}
        assert imported[stage.address] <= named, (stage.address, imported[stage.address] - named)


def test_one_helper_of_a_stage_is_enough(graph: dict[str, Entry]) -> None:
    """A file a stage, and then one of each package that several share."""
    imported = {address: files_of(entry) for address, entry in graph.items()}
    helpers = {}
    for address, files in imported.items():
        own = sorted(f for f in files if f.startswith(f"tasks/{graph[address].name}/") and not f.endswith("/stage.py"))
        helpers[address] = own[0] if own else f"tasks/{graph[address].name}/stage.py"
    shared = ["tasks/core/tables.py", "lm/config.py", "lm/model.py", "lm/training/loop.py", "kernels/rope/reference.py"]
    for names in [sorted(set(helpers.values())), *([name] for name in shared)]:
        for name in names:
            with Path(name).open("a") as file:
                file.write("\nADDED = 1\n")
        found = reasons()
        for address in graph:
            for name in imported[address].intersection(names):
                assert f"{name} changed" in found.get(address, ""), (name, address, found.get(address))
        assert set(names) <= set().union(*imported.values())
        subprocess.run(["git", "checkout", "-q", "--", "."], check=True)


def test_a_byte_of_every_input_makes_the_stages_stale_that_read_it(graph: dict[str, Entry], tmp_path: Path) -> None:
    """A bit in one file of every folder that stages hand on, and a row of every given one."""
    inputs = {
        dep: [a for a, e in graph.items() if dep in e.deps]
        for e in graph.values()
        for dep in e.deps
        if dep[:5] == "data/"
    }
    changed = {}
    for folder in inputs:
        file = max((path for path in Path(folder).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        content = bytearray(file.read_bytes())
        shutil.copyfile(file, tmp_path / folder.replace("/", "-"))
        content[len(content) // 2] ^= 1
        file.unlink()  # it may be a link into DVC's cache
        file.write_bytes(content)
        changed[folder] = file
    found = reasons()
    for folder, addresses in inputs.items():
        for address in addresses:
            assert f"{changed[folder]} changed" in found.get(address, ""), (folder, address, found.get(address))
    for folder, file in changed.items():
        shutil.copyfile(tmp_path / folder.replace("/", "-"), file)
    assert reasons() == {}
    with Path("data/raw/a.jsonl").open("a") as file:
        file.write('{"text": "one more row"}\n')
    Path("data/problems/more.txt").write_text("new\n")
    Path("data/references/given.txt").unlink()
    found = reasons()
    assert found["ingest"] == "data/raw/a.jsonl changed" and "data/problems/more.txt added" in found["rl"]
    assert found["dedup"] == "data/references/given.txt removed"


def test_a_command_and_an_output_count() -> None:
    text = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(text.replace("python -m tasks.runner sft", "python -O -m tasks.runner sft"))
    Path("data/metrics/rl.json").write_text("{}\n")
    kept = Path("data/distill/config.json").read_bytes()
    Path("data/distill/config.json").unlink()
    found = reasons()
    assert found["sft"] == "its command: python -m tasks.runner sft -> python -O -m tasks.runner sft"
    assert found["rl"] == "its output was edited: data/metrics/rl.json"
    assert found["distill"] == "its output was edited: data/distill/config.json removed"
    assert found["prune"] == "data/distill/config.json removed"
    Path("data/distill/config.json").write_bytes(kept)


def test_files_that_no_stage_uses_may_be_commented_renamed_and_removed(graph: dict[str, Entry]) -> None:
    used = set().union(*map(files_of, graph.values())) | {dep for entry in graph.values() for dep in entry.deps}
    unused = [
        *("lm/optimizers/lion.py", "lm/schedules/linear.py", "tasks/rl/losses/reinforce.py"),  # not chosen
        *("lm/chat.py", "lm/hugging_face/export.py", "kernels/rope/test_rope.py"),
        *("tasks/runner/stage.py", "tasks/runner/tracking.py", "tasks/runner/progress.py", "tasks/runner/trunks.py"),
        *("tasks/audit/traces.py", "tasks/report/render.py", "tasks/ledger/steps.py"),
        *("flows/forecast/dry_run.py", "flows/forecast/fake_gpu.py", "flows/pipeline/progress_bars.py"),
        *("flows/preflight/toy_run.py", "flows/staleness/plan.py", "benchmarks/roofs.py", "README.md"),
    ]
    assert len(unused) == 20
    assert used.isdisjoint(unused)
    for name in unused:
        with Path(name).open("a") as file:
            file.write("\n# a comment\n")
    assert reasons() == {}
    for name in unused:
        Path(name).rename(Path(name).with_name(f"test_renamed_{Path(name).name}"))
    assert reasons() == {}
    for name in ("tests", "docs", "benchmarks"):
        shutil.rmtree(name)
    assert reasons() == {}


def test_the_same_values_written_otherwise_are_no_change() -> None:
    params = read_params()
    Path("params.yaml").write_text("# in another order, with a comment\n" + dump_yaml(dict(reversed(params.items()))))
    for name in ("lm/model.py", "data/raw/a.jsonl"):
        os.utime(name)
    assert reasons() == {} and value_at("rl.steps", params) == PARAMS["rl"]["steps"]

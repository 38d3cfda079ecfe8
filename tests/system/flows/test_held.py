"""What DVC records is what the stage read, whatever is edited when: our starts of DVC refuse all else, and of plain `dvc repro`
it does not stay."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.environment import environment
from flows.params.compose import compose, write
from flows.stage.ready import DVC_CLI
from flows.staleness.false_entries import take_out
from flows.staleness.heal import heal_lock
from flows.workspaces.smoke import copy_project
from tasks.core.yaml import dump_yaml, read_yaml
from tasks.runner.recorded import is_true, locked_decisions
from tests.project import ROOT, TINY

# Reads each of the three when the others may have been edited already.
STAGE = """
from pathlib import Path
from lm.config import Config
from tasks.runner.stage import main
from toy.constant import CONSTANT

class ToyConfig(Config):
    threshold: float = 0.5

def run(config, data, log):
    for step in range(200):
        log.progress(step, 200)
    given = (data / "given" / "in.txt").read_text()
    (data / "toy" / "out").write_text(f"{config.threshold} {CONSTANT} {given}")
    return {"threshold": config.threshold}

if __name__ == "__main__":
    main("toy", ToyConfig, run)
"""
PLAIN = [sys.executable, "-m", "dvc"]
OURS = [sys.executable, "-P", str(DVC_CLI)]
EDITS = {
    "a parameter": ("params.yaml", "toy: {threshold: 0.6}\n", "toy: {threshold: 0.9}\n"),
    "a source file": ("toy/constant.py", "CONSTANT = 1\n", "CONSTANT = 2\n"),
    "an input": ("data/given/in.txt", "one", "two"),
}
# What is said of an output that was made before them
WORDS = {
    "a parameter": "toy.threshold: 0.6, not 0.9",
    "a source file": "another toy",
    "an input": "another data/given",
}
# Edits at random instants: the 200, or a few of them.
ALL = os.environ.get("TOKENMILL_CHAOS") == "all"


def put(path: Path, content: str | bytes) -> None:
    """Have another file there in one instant, as editors do."""
    unfinished = path.with_name(f".{path.name}.edited")
    unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(unfinished, path)


def repository(folder: Path) -> Path:
    """The folder under git and DVC, which keep what it has out of their keys as this project does."""
    for command in (["git", "init", "-q"], [*PLAIN, "init", "-q", "-f"]):
        subprocess.run(command, cwd=folder, check=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"})
    (folder / ".dvcignore").write_text((ROOT / ".dvcignore").read_text())
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A stage of a moment, in a project of its own; `afterwards`, where there is such a file, is sourced by its shell when the
    stage has ended and DVC does not know it yet."""
    (tmp_path / "toy").mkdir()
    (tmp_path / "data" / "given").mkdir(parents=True)
    (tmp_path / "toy" / "stage.py").write_text(STAGE)
    for path, before, _ in EDITS.values():
        (tmp_path / path).write_text(before)
    stage = {
        "cmd": "python -m toy.stage && if [ -f afterwards ]; then . ./afterwards; fi",
        "deps": ["toy", "data/given"],
        "params": ["toy"],
        "outs": ["data/toy", "data/keys/toy.json"],
        "metrics": [{"data/metrics/toy.json": {"cache": False}}],
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"toy": stage}}))
    return repository(tmp_path)


def repro(project: Path, start: list[str], *more: str) -> subprocess.CompletedProcess[str]:
    """`dvc repro`, whose output also whoever it leaves behind must have let go of. It keeps no bytecode: in the toy's folder that
    would be an input, and bytecode is told from that of an edit within the same second by its length alone."""
    unkept = {"PYTHONDONTWRITEBYTECODE": "1"}
    surroundings = environment(project) | unkept | {"PYTHONPATH": str(ROOT), "TOKENMILL_TRACKING": "off"}
    surroundings.pop("TOKENMILL_HELD", None)
    command = [*start, "repro", *more]
    return subprocess.run(command, cwd=project, env=surroundings, capture_output=True, text=True, check=False)


def entry_of(project: Path, address: str = "toy") -> dict[str, Any] | None:
    path = project / "dvc.lock"
    return ((read_yaml(path) or {}).get("stages") or {}).get(address) if path.exists() else None


def runs_of(project: Path) -> list[dict[str, Any]]:
    return [read_yaml(path) for path in (project / ".dvc" / "cache" / "runs").glob("*/*/*")]


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_between_the_stages_end_and_dvcs_look_fails_it(project: Path, edit: str) -> None:
    path, before, after = EDITS[edit]
    (project / "new").write_text(after)
    (project / "afterwards").write_text(f"cp new {path}\n")
    ended = repro(project, OURS)
    said = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")]
    assert ended.returncode and "Traceback" not in ended.stderr
    assert said == [
        f"ERROR: failed to reproduce 'toy': its output was made with {WORDS[edit]}; this was edited as it ended: run it again"
    ]
    assert entry_of(project) is None and runs_of(project) == []
    (project / "afterwards").unlink()
    again = repro(project, OURS)
    assert again.returncode == 0 and "Running stage" in again.stdout and is_true(entry_of(project) or {})


@pytest.mark.parametrize("edit", EDITS)
def test_plain_dvc_keeps_nothing_of_it_either(project: Path, edit: str) -> None:
    path, before, after = EDITS[edit]
    (project / "new").write_text(after)
    (project / "afterwards").write_text(f"cp new {path}\n")
    ended = repro(project, PLAIN)
    assert entry_of(project) is None and runs_of(project) == [], ended.stderr
    assert f"dvc.lock: toy: its output was made with {WORDS[edit]}; it is taken out, and runs again" in ended.stderr


def test_plain_dvc_keeps_what_is_true(project: Path) -> None:
    ended = repro(project, PLAIN)
    assert ended.returncode == 0 and ended.stderr == "" and len(runs_of(project)) == 1
    entry = entry_of(project)
    assert entry and is_true(entry) and repro(project, OURS).stdout.startswith("Stage 'toy' didn't change, skipping")
    assert take_out(project) == []


def test_what_an_unguarded_dvc_recorded_is_found_at_the_next_start(project: Path) -> None:
    """As where the guardian was killed, or the lock was made elsewhere: the lock's and the run cache's entry go."""
    assert repro(project, OURS).returncode == 0
    true = (project / "dvc.lock").read_text()
    put(project / "dvc.lock", true.replace("threshold: 0.6", "threshold: 0.9"))
    [run] = (project / ".dvc" / "cache" / "runs").glob("*/*/*")
    false_run = run.with_name("0" * 64)
    false_run.write_text(run.read_text().replace("threshold: 0.6", "threshold: 0.9"))
    assert heal_lock(project).splitlines() == [
        "dvc.lock: toy: its output was made with toy.threshold: 0.6, not 0.9; it is taken out, and runs again",
        "DVC's run cache: runs that it may take for others are taken out: 1",
    ]
    assert entry_of(project) is None and not false_run.exists() and run.exists()
    assert heal_lock(project) == ""
    assert repro(project, OURS).returncode == 0 and (project / "dvc.lock").read_text() == true


def test_our_start_of_dvc_takes_no_false_run_from_the_cache(project: Path) -> None:
    assert repro(project, OURS).returncode == 0
    [run] = (project / ".dvc" / "cache" / "runs").glob("*/*/*")
    run.write_text(run.read_text().replace("threshold: 0.6", "threshold: 0.9"))
    (project / "dvc.lock").unlink()
    ended = repro(project, OURS)
    assert ended.returncode == 0 and "is cached" not in ended.stdout and is_true(entry_of(project) or {})


@pytest.fixture
def called_size(tmp_path: Path) -> Path:
    """A stage with a parameter called size, and without a file that says what it read: as dedup was."""
    stage = {
        "cmd": "mkdir -p data/toy && cp params.yaml data/toy/out",
        "deps": ["in"],
        "params": ["toy"],
        "outs": ["data/toy"],
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"toy": stage}}))
    (tmp_path / "in").touch()
    return repository(tmp_path)


def have_size(project: Path, size: int, start: list[str]) -> str:
    """What DVC says of it."""
    put(project / "params.yaml", f"toy: {{size: {size}}}\n")
    return repro(project, start).stdout


def test_our_start_of_dvc_sees_what_the_run_cache_does_not(called_size: Path) -> None:
    for size in (3, 5, 3):
        assert "is cached" not in have_size(called_size, size, OURS)
        assert (called_size / "data/toy/out").read_text() == f"toy: {{size: {size}}}\n"


def test_a_lock_of_when_a_parameter_was_called_size_is_not_believed(called_size: Path) -> None:
    have_size(called_size, 3, PLAIN)
    assert "is cached" in have_size(called_size, 5, PLAIN), "DVC sees such keys now: none of this is needed any more"
    assert (called_size / "data/toy/out").read_text() == "toy: {size: 3}\n"
    assert take_out(called_size) == [
        "dvc.lock: toy: its output was made with toy.size: 3, not 5; it is taken out, and runs again",
        "DVC's run cache: runs that it may take for others are taken out: 1",
    ]
    have_size(called_size, 5, PLAIN)
    assert (called_size / "data/toy/out").read_text() == "toy: {size: 5}\n"
    shutil.rmtree(called_size / ".dvc" / "cache" / "runs")
    assert take_out(called_size) == [
        "dvc.lock: toy: its output may be of another toy.size, which DVC's run cache does not see; it is taken out, and runs again"
    ]


@dataclass
class Edited:
    """A stage of a project, and two versions of each of the files that are edited while it runs."""

    project: Path
    address: str
    edits: dict[str, tuple[str, bytes, bytes]]
    start: list[str]

    def have(self, edited: str | None = None) -> None:
        """The first version of each file; of one of them the second."""
        for name, (path, before, after) in self.edits.items():
            put(self.project / path, after if name == edited else before)

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        return repro(self.project, self.start, "--single-item", self.address, *more)

    def forget(self) -> None:
        """As if nothing had been recorded."""
        (self.project / "dvc.lock").unlink(missing_ok=True)
        shutil.rmtree(self.project / ".dvc" / "cache" / "runs", ignore_errors=True)

    def made_alone(self) -> dict[str, str]:
        """What the stage makes of each version when nobody edits anything: md5 of its output by what decides it."""
        known = {}
        for edited in [None, *self.edits]:
            self.have(edited)
            self.forget()  # the lock's word on an input that another stage made: an edit of it is refused at once
            done = self.run("--force")
            entry = entry_of(self.project, self.address)
            assert done.returncode == 0 and entry, done.stderr
            known[repr(locked_decisions(entry))] = entry["outs"][0]["md5"]
        assert len(set(known.values())) == len(self.edits) + 1, "an edit that shows in no output tells nothing"
        return known


# A process of its own: a thread of the tests comes late where the machine is busy. The instant is the thing itself.
EDIT = """
import os, sys, time
begun, at, new, path = sys.argv[1:]
while begun and not (os.path.isdir(begun) and os.listdir(begun)):
    time.sleep(0.002)
time.sleep(float(at))
os.replace(new, path)
"""


def edit_at_random(edited: Edited, times: int, seed: int) -> dict[str, int]:
    """Edit a file at random instants of a run, two of three when the stage has looked at what decides it, of which one soon
    after; asserts that nothing is recorded falsely. Returns how many runs ended how."""
    drawn, known, ended = random.Random(seed), edited.made_alone(), {"recorded": 0, "refused": 0}
    edited.have()
    whole = seconds_of(lambda: edited.run("--force"))
    for number in range(times):
        edited.have()
        edited.forget()
        path, _, after = drawn.choice(list(edited.edits.values()))
        begun = f".scratch/{edited.address}" if number % 3 else ""
        (edited.project / "new").write_bytes(after)
        at = drawn.uniform(0, whole / (1, 4, 16)[number % 3])
        command = [sys.executable, "-c", EDIT, begun, str(at), "new", path]
        editor, began = subprocess.Popen(command, cwd=edited.project), time.monotonic()
        done = edited.run()
        lasted = time.monotonic() - began
        editor.kill()  # an edit afterwards tells nothing
        editor.wait()
        entry = entry_of(edited.project, edited.address)
        said = f"edit {number}, of {path} at {at:.2f} s of {begun or 'all'}, {whole:.2f}: {done.stdout}{done.stderr}"
        for recorded in [*([entry] if entry else []), *runs_of(edited.project)]:
            assert known.get(repr(locked_decisions(recorded))) == recorded["outs"][0]["md5"], said
        assert "Traceback" not in done.stderr and (entry or done.returncode or edited.start == PLAIN), said
        ended["recorded" if entry else "refused"] += 1
        whole = lasted  # how long the next takes: as this one on a machine that is as busy
    return ended


def seconds_of(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


@pytest.mark.parametrize(("start", "seed"), [(OURS, 1), (PLAIN, 2)], ids=["ours", "plain"])
def test_no_edit_at_any_instant_is_recorded_falsely(project: Path, start: list[str], seed: int) -> None:
    edits = {name: (path, before.encode(), after.encode()) for name, (path, before, after) in EDITS.items()}
    ended = edit_at_random(Edited(project, "toy", edits, start), 70 if ALL else 4, seed)
    assert not ALL or min(ended.values()) > 5, ended


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this project, with documents of its own of which some differ in case alone."""
    folder = copy_project(ROOT, tmp_path_factory.mktemp("real"))
    (folder / "dvc.lock").unlink()
    rows = [{"text": f"the {n} of {n * n} things here", "other": f"THE {n // 2} of them"} for n in range(40)]
    rows += [{"text": row["text"].upper(), "other": "more"} for row in rows[:5]]
    (folder / "data/raw/a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def have_params(folder: Path, **changed: Any) -> bytes:
    """params.yaml of the tiny project with these sections; returns it."""
    (folder / "params.yaml").write_text(dump_yaml({**TINY, **changed}))
    write(folder, compose(folder, "current", []))
    return (folder / "params.yaml").read_bytes()


def ingest_of(field: str) -> dict[str, Any]:
    return {**TINY["ingest"], "sources": [{"name": "jsonl", "path": "*.jsonl", "text_field": field}]}


def test_no_edit_of_ingest_is_recorded_falsely(real: Path) -> None:
    code, rows = real / "tasks/ingest/sources/jsonl.py", real / "data/raw/a.jsonl"
    edits = {
        "a parameter": (
            "params.yaml",
            have_params(real, ingest=ingest_of("text")),
            have_params(real, ingest=ingest_of("other")),
        ),
        "a source file": (
            "tasks/ingest/sources/jsonl.py",
            code.read_bytes(),
            code.read_bytes().replace(b"orjson.loads(line)", b"orjson.loads(line.lower())"),
        ),
        "an input": ("data/raw/a.jsonl", rows.read_bytes(), rows.read_bytes().replace(b"things", b"others")),
    }
    edit_at_random(Edited(real, "ingest", edits, OURS), 30 if ALL else 3, 3)


@pytest.mark.skipif(not ALL, reason="minutes; TOKENMILL_CHAOS=all runs it")
def test_no_edit_of_dedup_is_recorded_falsely(real: Path) -> None:
    code, near = real / "tasks/dedup/output.py", {"name": "minhash", "shingle_words": 1}
    documents = {}
    for field in ("other", "text"):
        have_params(real, ingest=ingest_of(field))
        assert repro(real, OURS, "--single-item", "ingest").returncode == 0
        [shard] = (real / "data/ingest/documents").glob("*.parquet")
        documents[field] = shard.read_bytes()
    sections = [{**TINY["dedup"], "near": {**near, "threshold": threshold}} for threshold in (0.3, 0.9)]
    edits = {
        "a parameter": (
            "params.yaml",
            *(have_params(real, ingest=ingest_of("text"), dedup=section) for section in sections),
        ),
        "a source file": (
            "tasks/dedup/output.py",
            code.read_bytes(),
            code.read_bytes().replace(b'"duplicate_of"', b'"copy_of"'),
        ),
        "an input": (shard.relative_to(real).as_posix(), documents["text"], documents["other"]),
    }
    edit_at_random(Edited(real, "dedup", edits, OURS), 30, 4)

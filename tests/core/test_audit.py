"""Audited runs: what leaves the key is named, whoever opens it. tests/system/flows/test_mutations.py audits every stage."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.audit.audited import DECIDE_NOTHING, decides_nothing
from tasks.audit.inotify import Watch
from tasks.audit.places import Places
from tasks.audit.traces import Recorder, read_traces
from tasks.runner.graph import Entry, read_graph
from tests.forks.process import PLAIN, run_forked
from tests.project import ROOT

TOY = """
import os
from pathlib import Path
from lm.config import Config
from tasks.runner.stage import main
from toy import shard

class ToyConfig(Config):
    mode: str = "good"
    seed: int = 0

def run(config, data, log):
    (data / "toy" / "out").write_text((data / "given" / "in.txt").read_text())
    os.environ.get("TOKENMILL_THREADS"), os.environ | {}
    if config.mode == "file":
        Path("data/hidden/in.txt").read_text()
    if config.mode == "writes":
        Path("data/hidden/new.txt").write_text("made")
    if config.mode == "absent":
        Path("data/hidden/perhaps.txt").open("a").close()
    if config.mode == "lists":
        list(Path("data/hidden").iterdir())
    if config.mode == "elsewhere":
        Path(os.environ["HOME"], "in.txt").read_text()
    if config.mode == "library":
        import pyarrow as pa
        pa.memory_map("data/hidden/in.txt").read()
    if config.mode == "code":
        import hidden
    if config.mode == "variable":
        os.environ.get("LEARNING_RATE")
    if config.mode == "getenv":
        os.getenv("LEARNING_RATE", "3")
    if config.mode == "params":
        Path("params.yaml").read_text()
    if config.mode == "worker":
        log.map(shard.work, ["data/hidden/in.txt"] * 2, "work")
    return {"loss": 0.5}

if __name__ == "__main__":
    main("toy", ToyConfig, run)
"""
SHARD = """
from pathlib import Path

def work(item, folder):
    Path(item).read_text()
    return {}
"""
# What each mode of the toy touches that is outside its key, as the one line names it.
OUTSIDE = {
    "file": "data/hidden/in.txt",
    "writes": "data/hidden/new.txt",
    "absent": "data/hidden/perhaps.txt",
    "lists": "data/hidden",
    "elsewhere": "{home}/in.txt",
    "library": "data/hidden/in.txt",
    "code": "hidden.py",
    "variable": "the variable LEARNING_RATE",
    "getenv": "the variable LEARNING_RATE",
    "params": "params.yaml",
    "worker": "data/hidden/in.txt",
    "section": "the section seed of params.yaml",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "toy").mkdir(parents=True)
    (folder / "toy" / "stage.py").write_text(TOY)
    (folder / "toy" / "shard.py").write_text(SHARD)
    (folder / "hidden.py").write_text("")
    for name in ("data/given", "data/hidden", "../home", "../tmp"):
        (folder / name).mkdir(parents=True)
        (folder / name / "in.txt").write_text("input")
    for name in ("tasks", "lm", "kernels"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".dvcignore").write_text("__pycache__/\n")
    return folder


def audited(project: Path, mode: str, *words: str) -> tuple[int, str, str]:
    """The exit code and what is printed, on stdout and on stderr, of an audited run of the toy."""
    sections = ["toy"] if mode == "section" else ["toy", "seed"]
    stage = {
        "cmd": "python -m toy.stage",
        "deps": [
            "tasks/core",
            "lm/config.py",
            "lm/files.py",
            "lm/inputs/hashed.py",
            "lm/memory_limits.py",
            "lm/settings.py",
            "toy",
            "data/given",
        ],
        "params": sections,
        "outs": ["data/toy"],
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"toy": stage}}))
    (project / "params.yaml").write_text(yaml.safe_dump({"seed": 1, "toy": {"mode": mode}}))
    surroundings = {"HOME": str(project.parent / "home"), "TMPDIR": str(project.parent / "tmp")}
    surroundings |= {"TOKENMILL_SHARD_WORKERS": "2", "TOKENMILL_RUNNER": "never:asked"}
    done = run_forked("tasks.audit", ["toy", *words], project, {**os.environ, **surroundings}, PLAIN)
    return done.returncode, done.stdout, done.stderr


def test_a_stage_inside_its_key_passes_and_is_recorded(project: Path) -> None:
    code, printed, _ = audited(project, "good")
    assert (
        code == 0 and printed.startswith("toy: all inside its key: files ") and printed.endswith("sections seed, toy\n")
    )
    record = json.loads((project / ".scratch/audit/toy.json").read_text())
    assert record["outside"] == [] and record["params"] == ["seed", "toy"]
    assert {"toy/stage.py", "toy/shard.py", "data/given/in.txt"} <= set(record["files"]["dependency"])
    assert record["variables"] == ["TOKENMILL_THREADS"]
    assert [path.name for path in (project / ".scratch/audit").iterdir()] == ["toy.json"]


@pytest.mark.parametrize("mode", OUTSIDE)
def test_what_is_outside_the_key_fails_the_stage_with_its_name(project: Path, mode: str) -> None:
    code, *printed = audited(project, mode)
    expected = OUTSIDE[mode].format(home=project.parent / "home")
    assert code == 2 and "".join(printed) == (
        f"toy: outside its key: {expected}; declare it in dvc.yaml or params.yaml, or have the stage do without "
        "(.scratch/audit/toy.json has all)\n"
    )
    assert not (project / "data" / "toy").exists()


def test_programs_are_told_in_json_what_was_touched(project: Path) -> None:
    code, printed, _ = audited(project, "good", "--json")
    found = json.loads(printed)
    assert (code, found["code"], found["outside"]) == (0, 0, []) and found["params"] == ["seed", "toy"]
    code, printed, errors = audited(project, "file", "--json")
    found = json.loads(printed)
    assert (code, found["code"], found["outside"]) == (2, 2, [OUTSIDE["file"]]) and OUTSIDE["file"] in errors
    # of a stage that ends before its audit nothing was seen, whatever an earlier run had seen
    code, printed, errors = audited(project, 1, "--json")  # type: ignore[arg-type]
    assert (code, printed) == (2, "") and "toy.mode" in errors


def test_nothing_is_recorded_unless_asked_for(project: Path) -> None:
    audited(project, "good")
    (project / ".scratch/audit/toy.json").unlink()
    surroundings = {**os.environ, "TOKENMILL_TRACKING": "off"}
    program = (
        "import os, sys; sys.argv = ['toy']; import toy.stage as t; t.main('toy', t.ToyConfig, t.run);"
        "assert os._Environ.__getitem__.__module__ == 'os'"
    )
    subprocess.run([sys.executable, "-c", program], cwd=project, env=surroundings, check=True)
    assert not list((project / ".scratch/audit").iterdir())


def test_it_asks_for_tracking_to_be_off(project: Path) -> None:
    audited(project, "good")
    surroundings = {**os.environ, "TOKENMILL_AUDIT": "1", "TOKENMILL_RUNNER": "x:y"}
    done = subprocess.run(
        [sys.executable, "-m", "toy.stage"],
        cwd=project,
        env={**surroundings, "TOKENMILL_TRACKING": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.startswith("TOKENMILL_AUDIT: needs TOKENMILL_TRACKING=off")


def test_an_unknown_stage_is_one_line(project: Path) -> None:
    audited(project, "good")
    done = run_forked("tasks.audit", ["toys"], project, dict(os.environ), PLAIN)
    assert (done.returncode, done.stderr) == (2, "STAGE: no stage 'toys' (stages: toy)\n")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux is asked")
def test_the_kernel_tells_of_opens_by_any_process(tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen" / "a").write_text("x")
    (tmp_path / "b").write_text("x")
    watch = Watch([tmp_path / "seen"], tmp_path / "last")
    subprocess.run(["cat", "seen/a", "b"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "seen" / "made").write_text("x")
    assert watch.stop() == {tmp_path / "seen" / "a", tmp_path / "seen" / "made"}
    assert not (tmp_path / "last").exists()


def test_a_copy_of_the_environment_is_no_look_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET", "1")
    recorder = Recorder(tmp_path)
    try:
        dict(os.environ.copy() | {})
        os.environ.get("LOOKED")
        os.environ.setdefault("DEFAULTED", "1")
        subprocess.run(["true"], check=True)
    finally:
        recorder.stop()
        del os.environ["DEFAULTED"]
    os.environ.get("AFTERWARDS")
    assert {name for how, name in read_traces(tmp_path) if how == "variable"} - {"PATH"} == {"LOOKED", "DEFAULTED"}


def test_an_unfinished_line_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text('["open", "/a"]\n["open", "/b')
    assert read_traces(tmp_path) == {("open", "/a")}


def test_what_a_file_is_to_a_stage() -> None:
    entry = Entry("rl", "", ["lm/losses/chosen.py", "lm/model.py", "../beside", "/given"], [], ["data/rl"])
    places, kinds = Places(entry, Path("/nowhere/project")), {}
    for name in (
        "lm/model.py",
        "data/rl/x",
        ".scratch/rl/x",
        "lm/checkpoint.py",
        "params.yaml",
        "../beside/x",
        "../other",
    ):
        kinds[name] = places.kind_of(os.path.normpath(f"/nowhere/project/{name}"))[0]
    assert list(kinds.values()) == ["dependency", "output", "scratch", "outside", "outside", "dependency", "outside"]
    assert places.kind_of("/given/x")[0] == "dependency" and places.kind_of("/proc/cpuinfo")[0] == "system"
    assert places.kind_of(os.__file__)[0] == places.kind_of(yaml.__file__)[0] == "library"
    assert places.kind_of(str(ROOT / "lm" / "model.py")) == ("dependency", "lm/model.py")
    assert places.kind_of(str(ROOT / "data" / "raw" / "x"))[0] == "outside"


def test_a_method_that_is_not_chosen_may_be_imported_and_other_code_may_not() -> None:
    kind = Places(read_graph(ROOT)["sft"], ROOT).kind_of
    for name, expected in {
        "lm/optimizers/adamw.py": "dependency",
        "lm/optimizers/lion.py": "unchosen",
        "lm/optimizers/__init__.py": "unchosen",
        "tasks/sft/__init__.py": "unchosen",
        "tasks/rl/rollout.py": "outside",
        "lm/chat.py": "outside",
        "flows/staleness/plan.py": "outside",
    }.items():
        assert kind(str(ROOT / name)) == (expected, name)


def test_the_variables_that_decide_nothing_are_a_short_list() -> None:
    assert len(DECIDE_NOTHING) < 50
    assert all(map(decides_nothing, ("PATH", "TOKENMILL_THREADS", "OMP_NUM_THREADS", "LC_ALL")))
    assert not any(map(decides_nothing, ("PATHS", "LEARNING_RATE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "")))

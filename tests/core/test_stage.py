"""The wrapper around every stage, with real processes: a toy stage in a project of its own."""

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tasks.runner.child import PARENT_ENDED
from tasks.runner.folders import replace
from tasks.runner.graph import Entry
from tasks.runner.key import path_md5, read_ignored
from tasks.runner.stage import StageLog
from tasks.runner.tracker import Tracker
from tests.forks.process import PLAIN, TRAINING, Forked, started
from tests.ports import dead_port
from tests.processes import PATIENCE, wait_for
from tests.project import ROOT, digest

STAGE = """
import os, sys, time
from pathlib import Path
from lm.config import Config
from tasks.core.config import ConfigError
from tasks.runner.stage import main

if "IMPORTS_TORCH" in os.environ:
    import torch

class ToyConfig(Config):
    steps: int
    mode: str = "good"
    deterministic: bool = True

def run(config, data, log):
    assert sorted(p.name for p in data.iterdir()) == ["given", "toy"], list(data.iterdir())
    (data / "toy" / "half").write_text("half")
    if config.mode == "wrong input":
        raise ConfigError("in.txt: row 3: no number; write one")
    if config.mode == "raises":
        raise RuntimeError("broken")
    if config.mode == "full disk":
        Path("/dev/full").write_text("x")
    if config.mode == "edits":
        Path("data/given/in.txt").write_text("another")
    if config.mode == "touches":
        Path("data/given/in.txt").write_text("input")
    if config.mode == "edits code":
        Path("toy/stage.py").write_text(Path("toy/stage.py").read_text() + "# more")
    if config.mode == "edits params":
        Path("params.yaml").write_text("toy: {steps: 11}")
    while config.mode == "logs nothing":
        Path("waits").touch()
        time.sleep(0.01)
    saved = log.scratch / "state"
    start = int(saved.read_text()) if saved.exists() else 0
    log.rewind(start)
    for step in range(start, config.steps):
        log(step, loss=1.0 / (step + 1))
        log.progress(step + 1, config.steps)
        (log.scratch / "unfinished").write_text(str(step + 1))
        os.replace(log.scratch / "unfinished", saved)
        if log.stopping:
            log.stop()
        while config.mode == "waits" and step == 5 and not Path("go").exists():
            Path("busy").touch()
            time.sleep(0.01)
            if log.stopping:
                Path("asked").touch()
                log.stop()
    (data / "toy" / "whole").write_text(Path(data / "given" / "in.txt").read_text())
    (data / "toy" / "half").unlink()
    log.fact(tokens_per_second=float("inf") if config.mode == "endless" else 5.0)
    if config.mode == "labels":
        log(config.steps, **{name: 1.0 for name in Path("labels").read_text().split("\\n")})
        log.fact(**{name: 2.0 for name in Path("labels").read_text().split("\\n")})
        return {name: 3.0 for name in Path("labels").read_text().split("\\n")}
    if config.mode == "torch":
        return {"deterministic": int(torch.are_deterministic_algorithms_enabled())}
    return {"steps": config.steps, "loss": float("nan") if config.mode == "nan" else 0.25}

if __name__ == "__main__":
    main("toy", ToyConfig, run)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "stage.py").write_text(STAGE)
    for name in ("given", "hidden"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "in.txt").write_text("input")
    stage = {"cmd": "python -m toy.stage", "deps": ["toy", "data/given"], "params": ["toy"], "outs": ["data/toy"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"toy": stage}}))
    (tmp_path / ".dvcignore").write_text("__pycache__/\n")
    set_params(tmp_path)
    return tmp_path


def set_params(project: Path, **values: object) -> None:
    (project / "params.yaml").write_text(yaml.safe_dump({"toy": {"steps": 10, **values}}))


def start(project: Path, **environment: str) -> Forked | subprocess.Popen[str]:
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENMILL_TRACKING": "off", **environment}
    libraries = TRAINING if "IMPORTS_TORCH" in environment else PLAIN
    return started("toy.stage", [], project, surroundings, libraries)


def finish(process: Forked | subprocess.Popen[str]) -> tuple[int, str]:
    printed, _ = process.communicate()
    return process.returncode, printed


def wait_for_step(project: Path, step: int) -> None:
    curves = project.glob
    wait_for(lambda: any(p.read_bytes().count(b"\n") >= step for p in curves(".scratch/toy/*/curves.jsonl")))


@pytest.mark.parametrize("wanted", [True, False])
def test_a_stage_is_deterministic_unless_its_section_says_otherwise(project: Path, wanted: bool) -> None:
    set_params(project, mode="torch", **({} if wanted else {"deterministic": False}))
    assert finish(start(project, IMPORTS_TORCH="1")) == (0, "")
    assert json.loads((project / "data/metrics/toy.json").read_text()) == {"deterministic": int(wanted)}


def test_a_finished_stage_leaves_output_metrics_and_timings_and_no_scratch(project: Path) -> None:
    assert finish(start(project)) == (0, "")
    assert sorted(p.name for p in (project / "data" / "toy").iterdir()) == ["curves.jsonl", "whole"]
    assert (project / "data/metrics/toy.json").read_text() == '{\n  "loss": 0.25,\n  "steps": 10\n}\n'
    timings = json.loads((project / "data/timings/toy.json").read_text())
    assert set(timings) == {"seconds", "peak_memory_bytes", "tokens_per_second"} and timings["peak_memory_bytes"] > 1e6
    points = [json.loads(line) for line in (project / "data/toy/curves.jsonl").read_text().splitlines()]
    assert points == [{"step": s, "loss": 1.0 / (s + 1)} for s in range(10)]
    assert not list((project / ".scratch" / "toy").iterdir())


@pytest.mark.parametrize(
    ("mode", "code", "said"),
    [
        ("raises", 1, "RuntimeError: broken"),
        ("wrong input", 2, "in.txt: row 3: no number; write one\n"),
        ("full disk", 1, "toy: No space left on device; make room and run it again: nothing finished is lost\n"),
        ("nan", 1, "the metric loss must be a finite number, not nan"),
        ("endless", 1, "the metric tokens_per_second must be a finite number, not inf"),
        ("edits", 1, "toy: data/given (data/given/in.txt) changed while the stage ran; run it again"),
        ("edits params", 1, "toy: toy of params.yaml changed while the stage ran; run it again"),
    ],
)
def test_a_failure_leaves_the_last_good_output_in_place(project: Path, mode: str, code: int, said: str) -> None:
    assert finish(start(project))[0] == 0
    before = digest(project / "data" / "toy"), (project / "data/metrics/toy.json").read_bytes()
    set_params(project, mode=mode)
    status, printed = finish(start(project))
    assert status == code and said in printed and ("Traceback" in printed) == (mode in ("raises", "nan", "endless"))
    assert (digest(project / "data" / "toy"), (project / "data/metrics/toy.json").read_bytes()) == before


def test_bad_params_end_before_anything_starts(project: Path) -> None:
    set_params(project, stepps=3)
    assert finish(start(project)) == (
        2,
        "params.yaml: toy.stepps: unknown key; did you mean 'steps'? (allowed: deterministic, mode, steps) (got 3)\n",
    )
    assert not (project / ".scratch" / "toy").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_resumed_gives_the_bytes_of_a_whole_run(project: Path, number: signal.Signals) -> None:
    set_params(project, mode="waits")
    process = start(project)
    wait_for_step(project, 6)
    process.send_signal(number)
    assert finish(process)[0] == (-signal.SIGKILL if number == signal.SIGKILL else 143)
    assert not (project / "data" / "toy").exists()
    (project / "go").touch()
    assert finish(start(project))[0] == 0
    resumed = digest(project / "data" / "toy")
    assert finish(start(project))[0] == 0
    assert digest(project / "data" / "toy") == resumed


def test_the_end_of_the_group_asks_once(project: Path) -> None:
    """SIGTERM and the parent's end arrive while the stage is busy: it still comes to the place where it saves."""
    set_params(project, mode="waits")
    process = start(project)
    wait_for(lambda: (project / "busy").exists())  # past the look at `stopping` that comes with a step
    for number in (signal.SIGSTOP, signal.SIGTERM, PARENT_ENDED, signal.SIGCONT):
        process.send_signal(number)
    assert finish(process)[0] == 143 and (project / "asked").exists()


def test_a_file_written_again_with_the_same_bytes_is_no_change(project: Path) -> None:
    set_params(project, mode="touches")
    assert finish(start(project)) == (0, "")


def test_a_stage_that_logs_no_steps_ends_at_once_when_asked(project: Path) -> None:
    set_params(project, mode="logs nothing")
    process = start(project)
    wait_for(lambda: (project / "waits").exists())
    process.send_signal(signal.SIGTERM)
    status, printed = finish(process)
    assert status == 143 and printed.startswith("toy: stopped") and not (project / "data" / "toy").exists()


def test_a_second_process_waits_for_the_first(project: Path) -> None:
    set_params(project, mode="waits")
    first = start(project)
    wait_for_step(project, 6)
    second = start(project)
    assert second.stdout.readline().startswith("toy: waiting for another process")
    (project / "go").touch()
    assert finish(first)[0] == 0 and finish(second)[0] == 0


def test_a_stage_dies_with_its_parent(project: Path) -> None:
    set_params(project, mode="waits")
    shell = textwrap.dedent("""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-m", "toy.stage"])
        print(child.pid, flush=True)
        child.wait()
    """)
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENMILL_TRACKING": "off"}
    parent = subprocess.Popen(
        [sys.executable, "-c", shell], cwd=project, env=surroundings, text=True, stdout=subprocess.PIPE
    )
    pid = int(parent.stdout.readline())
    wait_for_step(project, 6)
    descriptor = os.pidfd_open(pid)
    parent.kill()
    parent.communicate()
    assert select.select([descriptor], [], [], PATIENCE)[0], "the stage outlived its parent"


@pytest.mark.parametrize("kind", ["nothing", "folder", "file", "link"])
def test_whatever_stands_where_the_output_goes_is_replaced_whole(tmp_path: Path, kind: str) -> None:
    made, out, elsewhere = tmp_path / "made", tmp_path / "data" / "toy", tmp_path / "elsewhere"
    for folder in (made, out.parent, elsewhere):
        folder.mkdir()
    (made / "new").touch()
    (elsewhere / "old").touch()
    if kind == "folder":
        out.mkdir()
        (out / "old").touch()
    elif kind == "file":
        out.touch()
    elif kind == "link":
        out.symlink_to(elsewhere)
    replace(made, out)
    assert [p.name for p in out.iterdir()] == ["new"] and [p.name for p in out.parent.iterdir()] == ["toy"]
    assert (elsewhere / "old").exists() and not out.is_symlink()


def test_an_output_comes_over_from_another_device(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second device here")
    made = memory / f"tokenmill-{os.getpid()}"
    made.mkdir()
    (made / "new").touch()
    replace(made, tmp_path / "data" / "toy")
    assert (tmp_path / "data" / "toy" / "new").exists() and not made.exists()


def test_a_kill_while_curves_are_rewound_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_TRACKING", "off")
    tracker = Tracker(Entry("toy", "", [], [], []), "", {}, {})
    log = StageLog("toy", tmp_path, tracker)
    for step in range(4):
        log(step, loss=step)
    (tmp_path / "checkpoints" / "state").touch()

    def killed(*paths: Path) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr("lm.files.os.replace", killed)
        with pytest.raises(SystemExit):
            StageLog("toy", tmp_path, tracker).rewind(3)
    resumed = StageLog("toy", tmp_path, tracker)
    resumed.rewind(3)
    resumed(3, loss=3)
    assert [json.loads(line)["step"] for line in (tmp_path / "curves.jsonl").read_text().splitlines()] == [0, 1, 2, 3]


def test_curves_of_a_run_that_saved_nothing_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_TRACKING", "off")
    tracker = Tracker(Entry("toy", "", [], [], []), "", {}, {})
    StageLog("toy", tmp_path, tracker)(0, loss=1.0)
    assert StageLog("toy", tmp_path, tracker).written() == []


def test_an_edit_while_the_store_of_runs_takes_its_time_fails_the_stage(project: Path) -> None:
    """A store that answers when the stage has done its work, and edits a parameter before."""
    edited = (project / "params.yaml").read_text().replace("10", "11")

    class Store(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 - http.server calls it so
            wait_for(lambda: (project / "data/timings/toy.record.json").exists())
            (project / "params.yaml").write_text(edited)
            self.send_error(404)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Store) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        status, printed = finish(start(project, TOKENMILL_TRACKING="on", MLFLOW_TRACKING_URI=uri))
        server.shutdown()
    assert status == 1 and "Traceback" not in printed
    assert printed.splitlines()[-1] == "toy: toy of params.yaml changed while the stage ran; run it again"


@pytest.mark.parametrize(("mode", "kept"), [("edits", False), ("edits params", True), ("edits code", True)])
def test_what_an_edit_may_have_spoilt_is_not_gone_on_from(project: Path, mode: str, kept: bool) -> None:
    """A run with the files of before must not take over what was made of others; what was read once is of before."""
    set_params(project, mode=mode)
    assert finish(start(project))[0] == 1
    assert [path.name for path in project.glob(".scratch/toy/*/checkpoints/state")] == (["state"] if kept else [])


def test_code_edited_while_it_is_loaded_is_loaded_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process edits what it has just imported; what decides the output and what runs are of one version."""
    (project / "toy" / "constant.py").write_text("CONSTANT = 1\n")
    text = (
        (project / "toy" / "stage.py")
        .read_text()
        .replace(
            "import os, sys, time\n",
            "import os, sys, time\nfrom pathlib import Path\nfrom toy.constant import CONSTANT\n"
            "if CONSTANT == 1:\n    Path('toy/constant.py').write_text('CONSTANT = 22\\n')\n",
        )
    )
    (project / "toy" / "stage.py").write_text(
        text.replace('"whole").write_text(', '"whole").write_text(str(CONSTANT) + ')
    )
    assert finish(start(project)) == (0, "")
    assert (project / "data/toy/whole").read_text() == "22input"
    record = json.loads((project / "data/timings/toy.record.json").read_text())
    monkeypatch.chdir(project)
    assert record["deps"]["toy"] == path_md5(Path("toy"), read_ignored())


@pytest.mark.parametrize("uri", ["http://127.0.0.1:{}", "sqlite:////proc/nowhere/mlflow.db"])
def test_tracking_in_trouble_warns_and_the_stage_is_done(project: Path, uri: str) -> None:
    uri = uri.format(dead_port())
    status, printed = finish(start(project, TOKENMILL_TRACKING="on", MLFLOW_TRACKING_URI=uri))
    assert status == 0 and (project / "data/toy/whole").exists()
    assert [line[:18] for line in printed.splitlines() if "tracking" in line] == ["warning: tracking:"]

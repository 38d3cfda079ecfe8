"""Stages forked off a process that holds torch: each is what a shell would have begun, and none outlives those who began it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.params.compose import compose
from flows.stage import dvc_forks as kept_ready
from flows.stage.as_module import OURS
from flows.stage.dvc_forks import dvc_fork_servers
from flows.stage.process import StageResult, run_stage
from flows.stage.stage_forks import AUDIT, DEVICES, LIBRARIES, NEEDS, imports_torch
from tasks.runner.graph import graph_of
from tests.flows.small_graph import make_repo, surroundings
from tests.flows.team import processes_in
from tests.processes import command_of, has_ended, wait_for
from tests.project import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each stage is a new process")
# A stage of a project of its own, whose program is a file.
MAIN = """
import sys
from pathlib import Path
held = "torch" in sys.modules  # before any code of the stage
exec(compile(Path(sys.argv[1] + ".txt").read_text(), sys.argv[1], "exec"))
"""
MAKES = "import os; os.makedirs('data/' + sys.argv[1], exist_ok=True); Path('data', sys.argv[1], 'x').write_text(str(held))\n"
TELLS = (
    f"CHECKOUT = {tuple(str(ROOT / name) for name in OURS)!r}  # without its .venv\n"
    + """
import multiprocessing
import gc, json, os, signal, threading
told = {
    "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "cwd": os.getcwd(), "name": __name__, "spec": __spec__.name,
    "threads": threading.active_count(), "collects": gc.isenabled(), "files": sorted(os.listdir("/proc/self/fd"))[:3],
    "environment": {k: v for k, v in os.environ.items() if k not in ("_", "SHLVL", "OLDPWD", "LC_CTYPE")},
    "signals": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1)],
    "ours": sorted(
        name for name, module in sys.modules.items()
        if name.partition(".")[0] in ("tests", "tasks", "lm", "flows", "kernels", "dvc")
        or str(getattr(module, "__file__", None)).startswith(CHECKOUT)
    ),
    "main": sys.modules["__mp_main__"].__dict__ is globals(), "safe_path": sys.flags.safe_path, "file": __file__,
    "group": os.getpgid(0) == os.getsid(0) != os.getpid(),
    "shown": open("/proc/self/cmdline").read().rstrip("\\0").replace("\\0", " "),
}
Path("told-" + sys.argv[1] + ".json").write_text(json.dumps([held, told]))
"""
)
ENDS = {
    "thread": "import threading; threading.Thread(target=lambda: print('after')).start()",
    "exit": "sys.exit(3)",
    "error": "1 / 0",
    "killed": "os.kill(os.getpid(), 9)",
    "asked": "os.kill(os.getpid(), 15)",
    "words": "sys.exit('so not')",
    "well": "pass",
}


def repo_of(folder: Path, **programs: str) -> Path:
    """A project with a stage for each program, all of which say that they need torch."""
    made = make_repo(folder)
    (made / "tasks" / "runner").mkdir(parents=True, exist_ok=True)
    for package in ("tasks", "tasks/runner"):
        (made / package / "__init__.py").touch()
    (made / "tasks" / "runner" / "__main__.py").write_text(MAIN)
    (made / "params.yaml").write_text(yaml.safe_dump({"libraries": {"torch": "2"}}))
    for name, program in programs.items():
        (made / f"{name}.txt").write_text(MAKES + program)
    stages = {
        name: {
            "cmd": f"python -m tasks.runner {name}",
            "params": [NEEDS],
            "outs": [f"data/{name}"],
            "meta": {DEVICES: 1},
        }
        for name in programs
    }
    (made / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    return made


def run(folder: Path, stage: str, **extra: str) -> StageResult:
    return run_stage(folder, stage, True, lambda line: None, {**surroundings(folder), **extra})


def held(folder: Path, stage: str) -> str:
    """Whether the stage began with torch: "True" or "False"."""
    return (folder / "data" / stage / "x").read_text()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, there is no server but those that are begun there."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kept_ready, "_servers", {})
        patched.setattr(kept_ready, "_training", set())
        yield


@pytest.fixture(scope="module")
def torch_kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server for stages of these names, of whatever folder: importing torch for each test would take most of its time. The
    first test begins one of its own, in the folder of its stages, as a run does."""
    stages = ["a", "b", "d", *ENDS]
    with (
        alone(),
        dvc_fork_servers(repo_of(tmp_path_factory.mktemp("kept") / "repo", **dict.fromkeys(stages, "")), stages, {}),
    ):
        yield


def test_a_stage_finds_what_a_new_process_finds(tmp_path: Path) -> None:
    folder = repo_of(tmp_path / "repo", a=TELLS, b="")
    told: list[Any] = []
    for stages in (["a", "b"], ["a"]):
        with alone(), dvc_fork_servers(folder, stages, {}):
            assert run(folder, "a", EXTRA="of this stage \udcff").code == 0
        told.append(json.loads((folder / "told-a.json").read_text()))
    (forked, first), (new, second) = told
    assert (forked, new) == (True, False)
    assert first == second and first["group"] and first["ours"] == ["tasks", "tasks.runner"]


@pytest.mark.parametrize("ending", ENDS)
def test_a_stage_ends_as_a_new_process_does(tmp_path: Path, torch_kept: None, ending: str) -> None:
    folder = repo_of(tmp_path / "repo", **{ending: f"import atexit; atexit.register(print, 'last')\n{ENDS[ending]}"})

    def end() -> tuple[str, int, str, list[str]]:
        done = run(folder, ending)
        (folder / "dvc.lock").unlink(missing_ok=True)
        said = [line for line in done.tail if not line.startswith("  File")]  # whose frames lead into it differ
        return held(folder, ending), done.code, done.how, said[-3:]

    forked = end()
    with alone():
        new = end()
    assert (forked[0], new[0]) == ("True", "False") and forked[1:] == new[1:]


def test_what_a_fork_cannot_be_is_a_new_process(tmp_path: Path, torch_kept: None) -> None:
    """Another setting of the interpreter or of a library, and a stage that has no torch."""
    folder = repo_of(tmp_path / "repo", a="", b="", c="", d="")
    whole = yaml.safe_load((folder / "dvc.yaml").read_text())
    del whole["stages"]["c"]["meta"]
    whole["stages"]["d"]["cmd"] = "python -m tasks.runner d && true"
    (folder / "dvc.yaml").write_text(yaml.safe_dump(whole))
    assert [run(folder, name, **extra).code for name, extra in (("a", {}), ("b", {"OMP_NUM_THREADS": "3"}))] == [0, 0]
    assert [run(folder, name).code for name in ("c", "d")] == [0, 0]
    assert [held(folder, name) for name in "abcd"] == ["True", "False", "False", "False"]
    assert run(folder, "b", PYTHONPATH="/nowhere").code == 0
    assert held(folder, "b") == "True"
    assert run(folder, "b", **{AUDIT: "1"}).code == 0
    assert held(folder, "b") == "False"


def test_a_large_environment_and_what_is_written_last_are_whole(tmp_path: Path, torch_kept: None) -> None:
    left = "left = open('left', 'w'); left.write('kept')\nfrom ctypes import CDLL; CDLL(None).printf(b'of C\\n')\n"
    left += "import torch; print('seed', torch.initial_seed())"
    folder = repo_of(tmp_path / "repo", a=left, b="")
    large = {f"LARGE{number}": "x" * 100_000 for number in range(12)}  # 1.2 MB, each as long as a program may be given
    both = [run(folder, "a", **large) for _ in range(2)]
    assert [done.code for done in both] == [0, 0] and held(folder, "a") == "True"
    assert (folder / "left").read_text() == "kept" and all("of C" in done.tail for done in both)
    seeds = {line for done in both for line in done.tail if line.startswith("seed")}
    assert len(seeds) == 2


def test_no_keeper_is_left_to_whoever_adopts_orphans(tmp_path: Path) -> None:
    """Where the first process of a container takes note of no child's end, each would stay for good."""
    program = "from ctypes import CDLL; CDLL(None).prctl(36, 1)\n"  # the orphans below are given to this process
    program += "import sys, psutil; from pathlib import Path; from tests.flows.test_stage_forks import run; "
    program += "from flows.stage.dvc_forks import dvc_fork_servers\nfolder = Path(sys.argv[1])\n"
    program += (
        "with dvc_fork_servers(folder, ['a', 'b'], {}):\n    assert [run(folder, n).code for n in 'ab'] == [0, 0]\n"
    )
    program += "assert not psutil.Process().children(), psutil.Process().children()"
    folder = repo_of(tmp_path / "repo", a="", b="")
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_stage_that_is_forked_would_import_the_libraries() -> None:
    """Else its record told of libraries that a new process has not: of the least of them, and of the stages of dvc.yaml."""
    program = "import sys, tasks.runner.stage, tasks.evaluate.stage\nfrom flows.stage.stage_forks import LIBRARIES\n"
    program += "assert not [name for name in LIBRARIES if name not in sys.modules]"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for entry in graph_of(ROOT, compose(ROOT, "laptop", [])).values():
        assert imports_torch(entry.params, entry.meta) == (DEVICES in entry.meta), entry.address


def test_a_stage_has_the_code_of_its_folder_as_it_is_now(tmp_path: Path, torch_kept: None) -> None:
    folder = repo_of(tmp_path / "repo", a="import tasks.own; print('said', tasks.own.WORD)", b="")
    own = folder / "tasks" / "own.py"
    for word in ("one", "another"):
        own.write_text(f"WORD = {word!r}")
        assert f"said {word}" in run(folder, "a").tail
    assert held(folder, "a") == "True"


@pytest.mark.parametrize("victim", ["dvc", "keeper"])
def test_it_ends_with_those_who_began_it(tmp_path: Path, torch_kept: None, victim: str) -> None:
    """A stage of ours asks for a signal at its parent's end, as this one does."""
    asks = "from ctypes import CDLL; CDLL(None).prctl(1, 10); print('begun', flush=True); import signal; signal.pause()"
    folder = repo_of(tmp_path / "repo", a=asks, b="")
    pids = list[int]()

    def heard(line: str) -> None:
        if line == "begun":
            (stage,) = [each for each in processes_in(folder) if command_of(each)[1:3] == ["-m", "tasks.runner"]]
            keeper, dvc = stage.parents()[:2]
            assert os.getpgid(stage.pid) == dvc.pid
            pids.extend([stage.pid, keeper.pid, dvc.pid])
            os.kill({"dvc": dvc, "keeper": keeper}[victim].pid, signal.SIGKILL)

    done = run_stage(folder, "a", True, heard, surroundings(folder))
    assert done.code == 137 and len(pids) == 3
    wait_for(lambda: all(map(has_ended, pids)))
    assert run(folder, "b").code == 0 and held(folder, "b") == "True"


def test_whoever_asks_a_group_to_end_is_obeyed_and_the_stage_may_save_first(tmp_path: Path, torch_kept: None) -> None:
    saves = "import signal, time\ndef save(*_):\n    print('saved', flush=True)\n    sys.exit(143)\n"
    saves += "signal.signal(signal.SIGTERM, save)\nprint('begun', flush=True)\nsignal.pause()"
    folder = repo_of(tmp_path / "repo", a=saves, b="")
    said = list[str]()

    def heard(line: str) -> None:
        said.append(line)
        if line == "begun":
            (stage,) = [each for each in processes_in(folder) if command_of(each)[1:3] == ["-m", "tasks.runner"]]
            os.killpg(os.getpgid(stage.pid), signal.SIGTERM)

    assert run_stage(folder, "a", True, heard, surroundings(folder)).code == 143
    assert said[-1] == "saved"


def test_the_libraries_have_no_thread_that_a_fork_would_miss() -> None:
    """Those of numpy's BLAS aside, which begin again in a fork."""
    program = "from flows.stage.stage_forks import *; start = begin_with_libraries()\n"
    program += "assert threads_of(os.getpid()) == 1 + start.threads, os.listdir('/proc/self/task')\n"
    program += "import torch; assert not torch.cuda.is_initialized()\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch" in LIBRARIES

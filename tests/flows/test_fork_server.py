"""DVC kept ready: what it forks is what a start of DVC would have been, and nothing of it outlives those who began it."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from flows.stage.dvc_forks import DVC_CLI, dvc_fork_servers, fork_dvc
from flows.stage.fork_server import NUMBER, show
from flows.stage.process import TRANSIENT_CODES, StageResult, run_stage
from flows.staleness.rwlock import TABLE, goes_on, read_table
from tests.flows.small_graph import make_repo, surroundings
from tests.flows.team import processes_in
from tests.processes import command_of, has_ended, wait_for
from tests.project import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each stage starts its own DVC")
WAITS = "echo begun; exec sleep 1000000"  # not `tail -f`, which ends with who reads it
# Runs what of two stages is named, with a DVC kept ready, and says how each ended.
PROGRAM = """
import sys
from pathlib import Path
from flows.stage.process import run_stage
from flows.stage.dvc_forks import dvc_fork_servers
with dvc_fork_servers(Path.cwd(), ["waits", "a"], {}):
    print("ready", flush=True)
    for stage in sys.argv[1:]:
        input()
        ended = run_stage(Path.cwd(), stage, False, lambda line: print(line, flush=True), {})
        print("ended", ended.code, flush=True)
    input()
"""


def repo_of(folder: Path, **commands: str) -> Path:
    """A project with a stage for each command, and one that only waits."""
    made = make_repo(folder)
    stages = {
        name: {"cmd": command, "outs": [f"data/{name}"]} for name, command in {"waits": WAITS, **commands}.items()
    }
    (made / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    return made


def makes(name: str, what: str) -> str:
    return f"mkdir -p data/{name}; {{ {what}; }} > data/{name}/x"


def run(folder: Path, stage: str, **extra: str) -> StageResult:
    return run_stage(folder, stage, True, lambda line: None, {"PYTHONPATH": str(ROOT), **extra})


def server_below(process: psutil.Process) -> psutil.Process | None:
    return next((child for child in process.children() if "serve" in command_of(child)), None)


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The program above in a project, in which it has begun the stage that waits."""
    folder = repo_of(tmp_path / "repo", a=makes("a", "echo 1"))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "waits", "a"],
        cwd=folder,
        env=surroundings(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    say(process, "begun")
    yield process
    process.kill()
    process.communicate()
    for left in processes_in(folder):  # a plain command does not end with its parent, as our stages do
        left.kill()


def say(process: subprocess.Popen[str], until: str) -> str:
    """Let the program go on; the line that begins so, or `ended`, which it says at the end of a stage."""
    assert process.stdin and process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    return next(line for line in process.stdout if line.startswith((until, "ended")))


def members(process: subprocess.Popen[str]) -> tuple[psutil.Process, psutil.Process]:
    """The server of a program, and the DVC that it has forked."""
    server = server_below(psutil.Process(process.pid))
    assert server
    (dvc,) = server.children()
    return server, dvc


def test_stages_end_as_they_would_without_it(tmp_path: Path) -> None:
    """One of a program that ends well, by an error and by a signal."""
    ends = {"well": "true", "error": "exit 3", "killed": "kill -9 $$", "asked": "kill -15 $$"}
    programs = {name: f"{makes(name, 'echo')}; echo begun; echo more >&2; {end}" for name, end in ends.items()}
    found = []
    for stages in (list(ends), ["well"]):
        folder = repo_of(tmp_path / str(len(stages)), **programs)
        with dvc_fork_servers(folder, stages, {}):
            found.append({name: run(folder, name) for name in ends})
    assert found[0] == found[1] and [end.code for end in found[0].values()] == [0, 3, 137, 143]
    assert all({"begun", "more"} < set(end.tail) for end in found[0].values())


def test_a_stage_has_the_environment_and_folder_that_it_would_have_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = repo_of(tmp_path / "repo", a=makes("a", "env -u _; pwd; umask; ulimit -a"))
    monkeypatch.setenv("GOES", "before the stage")
    found = []
    for stages in (["a", "waits"], ["a"]):
        with dvc_fork_servers(folder, stages, {}):
            monkeypatch.delenv("GOES", raising=False)
            run(folder, "a", EXTRA="of this stage \udcff")
        found.append((folder / "data" / "a" / "x").read_bytes())
    assert found[0] == found[1] and b"EXTRA=of this stage \xff\n" in found[0] and b"GOES" not in found[0]


def test_what_reads_its_command_sees_the_stage(begun: subprocess.Popen[str], tmp_path: Path) -> None:
    _, dvc = members(begun)
    words = [sys.executable, "-P", str(DVC_CLI), "--wait-for-lock", "repro", "--single-item", "waits"]
    assert command_of(dvc) == words and os.getsid(dvc.pid) == dvc.pid
    uses = read_table(tmp_path / "repo" / TABLE)
    assert uses and all(use.pid == dvc.pid and use.command in " ".join(words) and goes_on(use, 0.0) for use in uses)


def test_killed_itself_it_leaves_nothing(begun: subprocess.Popen[str]) -> None:
    server, dvc = members(begun)
    begun.kill()
    begun.wait()
    wait_for(lambda: has_ended(server) and has_ended(dvc))


def test_a_run_that_ends_leaves_nothing(begun: subprocess.Popen[str], tmp_path: Path) -> None:
    _, dvc = members(begun)
    for process in dvc.children():
        process.kill()
    assert say(begun, "ended") == "ended 137\n" and say(begun, "ended") == "ended 0\n"
    begun.communicate("\n")
    assert processes_in(tmp_path / "repo") == []


def test_killed_the_stage_may_be_tried_again_without_it(begun: subprocess.Popen[str]) -> None:
    server, dvc = members(begun)
    (stage,) = dvc.children()
    server.kill()
    wait_for(lambda: has_ended(dvc))
    stage.kill()
    line = say(begun, "ended")
    assert int(line.split()[1]) in TRANSIENT_CODES
    assert say(begun, "ended") == "ended 0\n" and server_below(psutil.Process(begun.pid)) is None


def test_stages_at_once_have_their_own_ends(tmp_path: Path) -> None:
    names = [f"s{code}" for code in range(6)]
    folder = repo_of(tmp_path / "repo", **{name: f"exit {name[1:]}" for name in names[1:]}, s0=makes("s0", "echo"))
    codes: dict[str, int] = {}
    with dvc_fork_servers(folder, names, {}):
        threads = [
            threading.Thread(target=lambda name=name: codes.update({name: run(folder, name).code})) for name in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert codes == {name: int(name[1:]) for name in names}


@pytest.mark.parametrize("sent", [b"", NUMBER.pack(1000) + b'{"words"'], ids=["nothing", "half"])
def test_a_command_that_is_not_told_whole_does_nothing(tmp_path: Path, sent: bytes) -> None:
    """Whoever asks may be killed at any instant."""
    folder = repo_of(tmp_path / "repo")
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        command = [sys.executable, "-P", str(DVC_CLI), "serve", str(its.fileno())]
        server = subprocess.Popen(command, cwd=folder, pass_fds=[its.fileno()])
        answer, other = socket.socketpair()
        read, write = os.pipe()
        with answer:
            socket.send_fds(ours, [b"."], [write, other.fileno()])
            child = psutil.Process(NUMBER.unpack(answer.recv(NUMBER.size, socket.MSG_WAITALL))[0])
            answer.sendall(sent)
        other.close()
        os.close(write)
        assert os.read(read, 1) == b""  # the end of the child, and that it said nothing
        wait_for(lambda: has_ended(child))
        os.close(read)
    assert server.wait() == 0


def test_edited_code_is_read_anew(tmp_path: Path) -> None:
    """A stage reads its code when it starts, and so does the DVC that holds it to that."""
    code = tmp_path / "code"
    for name in ("flows", "tasks", "lm", "kernels"):
        shutil.copytree(ROOT / name, code / name)
    folder = repo_of(tmp_path / "repo", a=makes("a", "echo"))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "a", "a"],
        cwd=folder,
        env=surroundings(folder, PYTHONPATH=str(code)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert say(process, "ended") == "ended 0\n"
    with (code / "tasks" / "core" / "yaml.py").open("a") as file:
        file.write("\nprint('edited', flush=True)\n")
    assert say(process, "edited") == "edited\n" and say(process, "ended") == "ended 0\n"
    process.communicate("\n")


def test_a_name_without_room_is_shown_all_the_same(tmp_path: Path) -> None:
    long = "a" * 500
    folder = repo_of(tmp_path / "repo", **{long: "ps -ww -o args= -p $PPID; exit 3"})
    with dvc_fork_servers(folder, ["a", "waits"], {}):
        told = run(folder, long)
    assert told.code == 3 and any(line.endswith(f"--single-item {long} --force") for line in told.tail)


def test_a_command_is_shown_only_where_it_fits() -> None:
    assert not show(["a" * 100_000])


def test_a_process_with_threads_is_not_forked(tmp_path: Path) -> None:
    """It would wait for ever for what its other threads held."""
    program = "import sys, threading, pathlib; threading.Thread(target=threading.Event().wait).start();"
    program += "from flows.stage.fork_server import serve; serve(0, pathlib.Path())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == os.EX_UNAVAILABLE


def test_one_stage_has_no_server(tmp_path: Path) -> None:
    with dvc_fork_servers(tmp_path, ["a"], {}):
        assert fork_dvc(["--version"], tmp_path, {}) is None and server_below(psutil.Process()) is None

"""Programs that mean harm, each of them contained: what it took is given back, and the process that asked for it goes on."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from lm.sandbox import run
from lm.sandbox.launcher import OWN_USERS, descendants
from lm.sandbox.run import Limits, Outcome
from tests.other_account import UID, needs_root, run_as_other_account
from tests.processes import PATIENCE, wait_for
from tests.project import ROOT

SYSTEM = "/usr/bin/python3"  # one that every user may read, where ours lies in root's own folder
QUICK = Limits(cpu_seconds=1, seconds=PATIENCE)  # of the clock many: others may have this machine busy
PATIENT = replace(QUICK, cpu_seconds=2)
# The hook of a sandbox without namespaces refuses to start processes; without it, too, all of them must end.
UNFENCED = "import sys\nexec(compile(open(sys.argv[1]).read(), 'program.py', 'exec'), {'__name__': '__main__'})\n"
MODES = ("namespaces", "bare", "bare without its hook")
FOUND: dict[
    str, tuple[str, str] | None
] = {}  # the interpreter that each mode runs: asked once, and not before each test


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way in which programs are shut in; skipped where this machine has no such."""
    name = request.param.split()[0]
    if request.param != name:
        (tmp_path / "boot.py").write_text(UNFENCED)
        monkeypatch.setattr(run, "BOOT", tmp_path / "boot.py")
    if request.param not in FOUND:
        ways = [run.interpreter(), (SYSTEM, "/usr")]
        FOUND[request.param] = next((way for way in ways if Path(way[0]).exists() and runs(name, way)), None)
    if (way := FOUND[request.param]) is None:
        pytest.skip(f"no sandbox {name} here")
    monkeypatch.setattr(run, "interpreter", lambda: way)
    return request.param


def runs(name: str, way: tuple[str, str]) -> bool:
    """Whether a sandbox of this name runs this interpreter."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run, "interpreter", lambda: way)
        return run._run("print(1)", PATIENT, name).out == "1\n"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that other users may enter, as pytest's own (made before) is not: every sandbox has one in it, and none is left."""
    with tempfile.TemporaryDirectory(prefix="tokenmill-test-") as folder:
        sandboxes = Path(folder) / "sandboxes"
        sandboxes.mkdir()
        Path(folder).chmod(0o755)
        sandboxes.chmod(0o777)
        monkeypatch.setattr(tempfile, "tempdir", str(sandboxes))
        monkeypatch.setattr(run, "GRACE_SECONDS", PATIENCE)
        yield Path(folder)
        assert list(sandboxes.iterdir()) == []


def ended(mode: str, source: str, limits: Limits = QUICK) -> Outcome:
    """Outcome of a program that first says which user it is; none of its processes is left."""
    outcome = run._run(f"import os\nprint(os.getuid(), flush=True)\n{source}", limits, mode.split()[0])
    user, _, rest = outcome.out.partition("\n")
    assert user, outcome
    if int(user) >= OWN_USERS:
        assert processes_of(int(user)) == []
    assert [pid for pid in descendants(os.getpid()) if "launcher" in said_of(pid)] == []
    return Outcome(rest, outcome.err, outcome.code, outcome.reason)


def processes_of(user: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            found += [int(folder.name)] if folder.stat().st_uid == user else []
    return found


def said_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""


def test_what_it_writes_and_how_it_ends(mode: str) -> None:
    source = "import sys\nprint('a')\nprint('b', file=sys.stderr)\nsys.exit(3)"
    assert ended(mode, source) == Outcome("a\n", "b\n", 3)
    assert ended(mode, "os.kill(os.getpid(), 11)" if mode != "bare" else "os.abort()").code in (-11, -signal.SIGABRT)
    assert "SyntaxError" in run._run("print(", QUICK, mode.split()[0]).err


def test_stdin_is_empty_and_nothing_of_ours_is_handed_down(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_SECRET", "1")
    source = """
print(sorted(os.environ), os.listdir("."))
for number in range(3, 64):
    try:
        os.fstat(number)
        print(number)
    except OSError:
        pass
input()
"""
    outcome = ended(mode, source)
    assert outcome.err.endswith("EOFError: EOF when reading a line\n")
    names = ["HOME", "LANG", "PATH", "PYTHONHASHSEED", "TMPDIR"]
    assert outcome.out == f"{names} []\n"


def test_the_same_program_writes_the_same(mode: str) -> None:
    source = "print(list({'a', 'b', 'c', 'd', 'e'}), {}.__repr__())"
    assert len({ended(mode, source).out for _ in range(3)}) == 1


def test_an_endless_loop_ends(mode: str) -> None:
    assert ended(mode, "while True: pass").reason == "took longer than 1 s of a processor"


def test_one_that_waits_ends_though_it_ignores_every_signal(mode: str) -> None:
    source = """
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    time.sleep(60)
"""
    # had it to be killed from outside, the reason were that
    assert ended(mode, source, Limits(seconds=0.5)).reason == "took longer than 0.5 s"


def test_a_fork_bomb_fills_nothing(mode: str) -> None:
    # of a thousand processes at most, were nothing to hold them; the first alone takes what it may of a processor
    source = """
import time
first = os.getpid()
for _ in range(10):
    try:
        os.fork()
    except OSError:
        pass
while os.getpid() == first:
    pass
time.sleep(600)
"""
    limits = replace(QUICK, processes=4)
    assert ended(mode, source, limits).reason == "took longer than 1 s of a processor"


def test_processes_are_counted(mode: str) -> None:
    if mode == "bare":
        pytest.skip("its hook refuses the first one")
    source = """
import time
made = 0
try:
    for _ in range(100):
        if not os.fork():
            time.sleep(60)
        made += 1
except OSError:
    print(made)
"""
    assert ended(mode, source, replace(PATIENT, processes=5)).out == "4\n"


DAEMON = """
import time
if not os.fork():
    os.setsid()
    if not os.fork():
        for number in range(3):
            os.close(number)
        time.sleep(30)
    os._exit(0)
os.wait()
time.sleep(0.1)  # the daemon has closed its output by then, or it ends while it has it open
print("gone")
"""


def test_a_daemon_ends_with_its_program(mode: str) -> None:
    outcome = ended(mode, DAEMON)
    assert outcome.out == "gone\n" or "os.fork: not in a sandbox" in outcome.err


def test_ten_gigabytes_are_not_to_be_had(mode: str) -> None:
    outcome = ended(mode, "x = bytearray(10 << 30)")
    assert outcome.code == 1 and outcome.err.endswith("MemoryError\n")
    few, many = (
        ended(mode, "x = bytearray(300 << 20)\nprint(len(x))", replace(PATIENT, memory=n << 20)) for n in (256, 512)
    )
    assert few.err.endswith("MemoryError\n") and many.out == f"{300 << 20}\n"


def test_a_flood_is_cut_and_ends(mode: str) -> None:
    outcome = ended(mode, "while True: print('x' * 999)", replace(PATIENT, output=5000))
    assert outcome.reason == "wrote more than 5000 bytes" and outcome.code is None
    assert len(run._run("while True: print('x' * 999)", replace(PATIENT, output=5000), mode.split()[0]).out) == 5000
    assert ended(mode, "print('x' * 4000)", replace(PATIENT, output=5000)).reason is None


def test_files_are_few(mode: str) -> None:
    source = """
try:
    with open("large", "wb") as file:
        for _ in range(100):
            file.write(bytes(1 << 20))
except OSError as error:
    print("full")
print(os.path.getsize("large") <= 2 << 20)
"""
    assert ended(mode, source, replace(PATIENT, files=2 << 20)).out == "full\nTrue\n"


def test_nothing_outside_is_written(mode: str, tmp_path: Path) -> None:
    places = [ROOT, Path("/"), Path("/usr"), Path("/etc"), Path.home(), Path(sys.prefix), Path("/var/tmp"), tmp_path]
    source = f"""
for place in {[str(place / "written-by-a-program") for place in places]}:
    for work in (lambda: open(place, "w").write("x"), lambda: os.mkdir(place), lambda: os.symlink("/", place)):
        try:
            work()
            print(place)
        except OSError:
            pass
"""
    outcome = ended(mode, source)
    if mode == "bare without its hook":  # a folder that is everybody's is this user's, too
        left = Path("/var/tmp/written-by-a-program")
        left.unlink(missing_ok=True)
        assert set(outcome.out.split()) <= {str(left)}
        return
    assert outcome.out == "" and outcome.code == 0
    assert [place for place in places if (place / "written-by-a-program").exists()] == []


def test_files_of_the_project_are_not_read(mode: str) -> None:
    source = f"""
for work in (lambda: open({str(ROOT / "README.md")!r}).read(), lambda: os.listdir({str(ROOT)!r})):
    try:
        work()
        print("read")
    except OSError as error:
        print(type(error).__name__)
"""
    if mode == "bare without its hook":
        pytest.skip("nothing keeps it from what its user may read")
    kind = {"namespaces": "FileNotFoundError", "bare": "PermissionError"}[mode]
    assert ended(mode, source).out == f"{kind}\n" * 2


@needs_root
def test_a_user_who_is_not_root_is_shut_in_as_well(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a namespace in which it may do what root does, of which its program has nothing."""
    for name in ("LAUNCHER", "BOOT"):  # where every user may read them
        path = shutil.copy(getattr(run, name), place)
        monkeypatch.setattr(run, name, Path(path))
    monkeypatch.setattr(run, "interpreter", lambda: (SYSTEM, "/usr"))
    sources = [
        "import os; print(os.getuid())",
        "open('/written', 'w')",
        "open('/usr/written', 'w')",
        "import os; os.chmod('/', 0o777)",
        "import os; os.chmod('/program.py', 0o777); print(open('/program.py', 'a').write('x'))",
        "import os; os.chroot('/tmp')",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import os; print(os.getpid(), os.getppid(), flush=True); os.kill(-1, 0)",
        DAEMON.replace("import time", "import os, time"),
        "import os\nfor _ in range(9):\n    if not os.fork():\n        while True: pass",
    ]
    limits = replace(QUICK, processes=5)

    def outcomes() -> list[str]:
        found = [run._run(source, limits, "namespaces") for source in sources]
        return [outcome.reason or outcome.err.strip().rpartition("\n")[2] or outcome.out.strip() for outcome in found]

    if (
        not Path(SYSTEM).exists()
        or run_as_other_account(lambda: run._run("print(1)", limits, "namespaces").out) != "1\n"
    ):
        pytest.skip("no namespaces for other users here")
    assert run_as_other_account(outcomes) == [
        str(UID),
        "OSError: [Errno 30] Read-only file system: '/written'",
        "OSError: [Errno 30] Read-only file system: '/usr/written'",
        "OSError: [Errno 30] Read-only file system: '/'",
        "OSError: [Errno 30] Read-only file system: '/program.py'",
        "PermissionError: [Errno 1] Operation not permitted: '/tmp'",
        "OSError: [Errno 101] Network is unreachable",
        "ProcessLookupError: [Errno 3] No such process",
        "gone",
        "BlockingIOError: [Errno 11] Resource temporarily unavailable",
    ]
    assert processes_of(UID) == []


def test_a_project_below_usr_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    if run.mode() != "namespaces":
        pytest.skip("no namespaces here")
    monkeypatch.setattr(run, "PROJECT", Path("/usr/share"))
    source = """
try:
    print(os.listdir("/usr/share"))
except OSError as error:
    print(type(error).__name__)
"""
    found = ended("namespaces", source).out
    assert found in ("PermissionError\n", "[]\n")


def test_there_is_no_network(mode: str) -> None:
    if mode == "bare without its hook":
        pytest.skip("nothing keeps it from one")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as other:
        other.bind(f"\0tokenmill-{os.getpid()}")
        other.listen()
        source = f"""
import socket
for family, kind, place in [
    (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", {server.getsockname()[1]})),
    (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 9)),
    (socket.AF_INET, socket.SOCK_STREAM, ("1.1.1.1", 53)),
    (socket.AF_UNIX, socket.SOCK_STREAM, {f"{chr(0)}tokenmill-{os.getpid()}"!r}),
]:
    try:
        socket.socket(family, kind).connect(place)
        print("connected to", place)
    except OSError:
        print("no")
"""
        assert ended(mode, source).out == "no\n" * 4


def test_it_cannot_kill_who_asked_for_it(mode: str) -> None:
    if mode == "bare without its hook" and os.getuid():
        pytest.skip("nothing keeps a program from the other processes of its user")
    source = f"""
for pid in ({os.getpid()}, os.getppid(), 1, -1):
    try:
        os.kill(pid, 9 if pid != -1 else 0)
        print(pid)
    except OSError:
        pass
"""
    outcome = ended(mode, source)
    # the first process of its namespace lets it try; -1, all that it may send a signal to, are its own
    assert set(outcome.out.split()) <= {"1", "-1"} and outcome.code == 0


def test_what_a_killed_trainer_asked_for_ends(tmp_path: Path) -> None:
    source = "from lm.sandbox.run import run_program, Limits\nrun_program('import time; time.sleep(600)', Limits(seconds=600.0))"
    trainer = subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)})

    def of_the_sandbox(pids: Iterable[int]) -> list[int]:
        return [pid for pid in pids if "launcher" in said_of(pid) or "program.py" in said_of(pid)]

    # with the program, which the launcher and the first process of its namespace come before
    wait_for(lambda: any("/program.py" in said_of(pid) for pid in descendants(trainer.pid)), trainer)
    found = of_the_sandbox(descendants(trainer.pid))
    assert found
    trainer.kill()
    trainer.wait()
    wait_for(lambda: not of_the_sandbox(found))
    for folder in tmp_path.glob("tokenmill-sandbox-*"):
        for path in sorted(folder.rglob("*"), reverse=True):
            path.unlink()
        folder.rmdir()

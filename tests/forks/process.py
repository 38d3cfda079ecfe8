"""A command `python -m module` as a process that starts without importing its libraries, used as a subprocess.Popen is."""

import atexit
import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import IO

from flows.stage.stage_forks import read_at_the_start
from tests.imports import ROOT

# What data stages import; those that train have torch beside it, and their records say so.
PLAIN = (
    *("numba", "numpy", "orjson", "pathspec", "psutil", "pyarrow.compute", "pyarrow.parquet", "pydantic.json_schema"),
    *("pydantic.main", "pydantic.types", "regex", "ruamel.yaml", "tqdm", "xxhash", "zstandard"),
)
TRAINING = (*PLAIN, "safetensors.torch", "tokenizers", "torch._inductor", "torch.distributed")
DVC = (
    *PLAIN,
    "dvc.cli.parser",
    "dvc.repo",
    "dvc.repo.reproduce",
    "dvc.stage.cache",
    "dvc_data.index",
    "networkx",
    "scmrepo.git",
)
# What the commands of `tokenmill` import. No prefect: it reads its settings as it is imported.
COMMANDS = (*TRAINING, *DVC, "duckdb", "scipy.stats")


class Forked:
    """A process of a server's; stdout has its errors too, as text, but where a file is given for them."""

    def __init__(
        self,
        module: str,
        arguments: list[str],
        cwd: Path,
        environment: dict[str, str],
        libraries: tuple[str, ...],
        errors: IO[str] | None = None,
    ) -> None:
        self.args = [sys.executable, "-m", module, *arguments]
        command = {"cwd": str(cwd), "environment": environment, "module": module, "arguments": arguments}
        reads, writes = os.pipe()
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(
                server(libraries),
                [json.dumps(command).encode()],
                [writes, errors.fileno() if errors else writes, theirs.fileno()],
            )
        os.close(writes)
        self.stdout: IO[str] = os.fdopen(reads)
        self._said = ours.makefile("r")
        self._socket = ours
        self.pid = int(self._said.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status when it has ended: that of Popen."""
        if self.returncode is None:
            try:
                said = self._socket.recv(32, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            if said.endswith(b"\n"):
                self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once it has ended. Raises subprocess.TimeoutExpired after so many seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while deadline is not None and self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            time.sleep(0.002)
        if self.returncode is None:
            line = self._said.readline()
            assert line, f"the server of {self.args} has ended"
            self.returncode = int(line)
        return self.returncode

    def communicate(self) -> tuple[str, None]:
        """All that it printed, once it has ended."""
        with self.stdout:
            printed = self.stdout.read()
        self.wait()
        return printed, None

    def send_signal(self, number: int) -> None:
        """To the process, where it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


_controls: list[socket.socket] = []
_started: list[subprocess.Popen[bytes]] = []


@cache
def server(libraries: tuple[str, ...]) -> socket.socket:
    """The control of the server that holds these libraries: one for all processes of a run of the tests, begun by the one that
    asks first, and gone with the last of them."""
    address, control = address_of(libraries), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    while True:
        try:
            control.connect(address)
            break
        except ConnectionRefusedError:  # there is none, or another process is about to listen
            begin(address, libraries)
    _controls.append(control)
    return control


def begin(address: bytes, libraries: tuple[str, ...]) -> None:
    """Begin a server that listens there, unless another does. It ends with the last that is connected to it, so that this
    process is before it runs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listens:
        try:
            listens.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return
        listens.listen()
        kept = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept.connect(address)
        _controls.append(kept)
        command = [sys.executable, "-m", "tests.forks.server", str(listens.fileno()), ",".join(libraries)]
        _started.append(subprocess.Popen(command, cwd=ROOT, pass_fds=[listens.fileno()]))


def address_of(libraries: tuple[str, ...]) -> bytes:
    """No file: the kernel's name of a socket, which goes with it. Of this run, this checkout, and what a fork cannot change."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    of = [
        run,
        str(ROOT),
        *libraries,
        os.environ.get("PYTHONPATH", ""),
        *sorted(read_at_the_start(dict(os.environ)).items()),
    ]
    return b"\0tokenmill-forks-" + hashlib.sha256(repr(of).encode()).hexdigest().encode()


@atexit.register
def end() -> None:
    """Leave all servers before any is waited for: this process's may wait for another that waits for its own."""
    for control in _controls:
        control.close()
    for started in _started:
        started.wait()


def may_fork(environment: dict[str, str]) -> bool:
    """Whether a fork would be as a new process: nothing that is read at a process's start differs from what the server has,
    but that PYTHONPATH may name this project."""

    def decides(variables: dict[str, str]) -> tuple[dict[str, str], list[str]]:
        path = variables.get("PYTHONPATH", "").split(os.pathsep)
        return read_at_the_start(variables), [part for part in path if part not in ("", str(ROOT))]

    return sys.platform == "linux" and decides(environment) == decides(dict(os.environ))


def started(
    module: str, arguments: list[str], cwd: Path, environment: dict[str, str], libraries: tuple[str, ...]
) -> Forked | subprocess.Popen[str]:
    """`python -m module arguments`, forked where a fork is as good as a new process, else new."""
    if may_fork(environment):
        return Forked(module, arguments, cwd, environment, libraries)
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run_forked(
    module: str, arguments: list[str], cwd: Path, environment: dict[str, str], libraries: tuple[str, ...] = COMMANDS
) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments` run to its end, as subprocess.run has it with both outputs kept, apart."""
    if not may_fork(environment):
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    with tempfile.TemporaryFile("w+") as errors:
        process = Forked(module, arguments, cwd, environment, libraries, errors)
        printed, _ = process.communicate()
        errors.seek(0)
        return subprocess.CompletedProcess(process.args, process.wait(), printed, errors.read())

"""DVC kept ready for the stages of a run: `flows/stage/fork_server.py`, begun beside what comes before the first of them."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from flows.environment import environment
from flows.stage.fork_server import NUMBER, SERVE, Request

DVC_CLI = Path(__file__).with_name("dvc_cli.py")
# Stages from which on it takes less of the processor than a DVC for each: it costs about one of them.
LEAST = 2
ROOM = " " * 400  # an argument of the server that says nothing: where its children write which command each is
_servers: list[socket.socket] = []


class Forked:
    """A command of DVC in a child of the server: of a Popen what we use of one."""

    def __init__(self, pid: int, stdout: TextIO, answer: socket.socket) -> None:
        self.pid, self.stdout, self._answer = pid, stdout, answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stdout.close()
        self._answer.close()

    def wait(self) -> int:
        """The exit code, as that of a Popen, once the output has ended; that of a killed one where the server was killed."""
        self._answer.shutdown(socket.SHUT_WR)
        code = self._answer.recv(NUMBER.size, socket.MSG_WAITALL)
        return int(NUMBER.unpack(code)[0]) if code else -signal.SIGKILL


@contextmanager
def ready(root: Path, stages: int) -> Iterator[None]:
    """Inside, `forked` has a server, where that pays for a run of so many stages, and where there is none already."""
    if stages < LEAST or _servers or sys.platform != "linux":
        yield
        return
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with its:
            server = subprocess.Popen(
                [sys.executable, "-P", str(DVC_CLI), SERVE, str(its.fileno()), ROOM],
                cwd=root,
                env=environment(root),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
                start_new_session=True,  # Ctrl-C is ours to pass on
            )
        _servers.append(ours)
        try:
            yield
        finally:
            _servers.remove(ours)
    server.wait()


def forked(words: Sequence[str], folder: Path, variables: dict[str, str]) -> Forked | None:
    """DVC's command line with these words, begun in a session of its own; None where no server can, so that whoever asks starts
    DVC itself."""
    if not _servers:
        return None
    read, write = os.pipe()
    answer, its = socket.socketpair()
    stdout = open(read, errors="replace")
    request = json.dumps(Request(words=list(words), folder=str(folder), environment=variables)).encode()
    try:
        with its:
            socket.send_fds(_servers[0], [b"."], [write, its.fileno()])
        pid = answer.recv(NUMBER.size, socket.MSG_WAITALL)
        if pid:
            answer.sendall(NUMBER.pack(len(request)) + request)
            return Forked(int(NUMBER.unpack(pid)[0]), stdout, answer)
    except OSError:  # it has ended, and what it had begun ends without a request
        pass
    finally:
        os.close(write)
    stdout.close()
    answer.close()
    return None

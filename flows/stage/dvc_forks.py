"""DVC kept ready for the stages of a run: `flows/stage/fork_server.py`, begun beside what comes before the first of them."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from flows.environment import environment
from flows.stage.fork_server import NUMBER, SERVE, SERVE_TRAINING, Request
from flows.stage.stage_forks import imports_torch
from tasks.runner.graph import graph_of

DVC_CLI = Path(__file__).with_name("dvc_cli.py")
# Stages from which on it takes less of the processor than a DVC for each: it costs about one of them.
LEAST = 2
ROOM = " " * 400  # an argument of the server that says nothing: where its children write which command each is
_servers: dict[str, socket.socket] = {}
_training: set[str] = set()  # addresses of stages that import torch


class ForkedDvc:
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
def dvc_fork_servers(root: Path, stages: Iterable[str], params: dict[str, Any]) -> Iterator[None]:
    """Inside, `fork_dvc` has a server for each kind of stage of which there are enough to run that it pays, where there is none
    already. stages: addresses; params: by which the graph has them."""
    addresses = set(stages)
    if _servers or sys.platform != "linux" or len(addresses) < LEAST:
        yield
        return
    graph = graph_of(root, params)
    training = {address for address, entry in graph.items() if imports_torch(entry.params, entry.meta)} & addresses
    training = training if len(training) >= LEAST else set()
    _training.update(training)
    try:
        with ExitStack() as kept:
            # that of torch first: it takes longest
            for word, its in (SERVE_TRAINING, training), (SERVE, addresses - training):
                if len(its) >= LEAST:
                    kept.enter_context(_server(root, word))
            yield
    finally:
        _training.clear()


@contextmanager
def _server(root: Path, word: str) -> Iterator[None]:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with its:
            server = subprocess.Popen(
                # without -P, which stages do not have, and would hand on to what they start
                [sys.executable, str(DVC_CLI), word, str(its.fileno()), ROOM],
                cwd=root,
                env=environment(root),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
                start_new_session=True,  # Ctrl-C is ours to pass on
            )
        _servers[word] = ours
        try:
            yield
        finally:
            del _servers[word]
    server.wait()


def fork_dvc(words: Sequence[str], folder: Path, variables: dict[str, str]) -> ForkedDvc | None:
    """DVC's command line with these words, begun in a session of its own; None where no server can, so that whoever asks starts
    DVC itself."""
    server = _servers.get(SERVE if _training.isdisjoint(words) else SERVE_TRAINING)
    if server is None:
        return None
    read, write = os.pipe()
    answer, its = socket.socketpair()
    stdout = open(read, errors="replace")
    request = json.dumps(Request(words=list(words), folder=str(folder), environment=variables)).encode()
    try:
        with its:
            socket.send_fds(server, [b"."], [write, its.fileno()])
        pid = answer.recv(NUMBER.size, socket.MSG_WAITALL)
        if pid:
            answer.sendall(NUMBER.pack(len(request)) + request)
            return ForkedDvc(int(NUMBER.unpack(pid)[0]), stdout, answer)
    except OSError:  # it has ended, and what it had begun ends without a request
        pass
    finally:
        os.close(write)
    stdout.close()
    answer.close()
    return None

"""A DVC that is ready: a process that has imported it, which takes 0.4 s, and forks a child for each command.

`flows/stage/ready.py` begins it and asks, `flows/stage/dvc_cli.py` is what it runs in. It has one thread, holds no lock and
opens no project. It ends with whoever began it, whose end of the socket the kernel closes, and its children end with it.

What passes: two descriptors for a command, where its output goes and a socket for the rest. The child says its number there
once it leads a session of its own, reads a Request, and is from then on what a start of DVC with these words would have been.
Whoever asked shuts its half of that socket when it wants the exit code; until then an ended child keeps its number.
"""

import ctypes
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TypedDict

from tasks.core.process import at_parents_end
from tasks.runner.child import process_start_ns

SERVE, SERVE_TRAINING = "serve", "serve-training"  # no commands of DVC's
NUMBER = struct.Struct("!i")
# Where the kernel has a process's arguments, of which tools such as `ps` read what it is: fields of /proc/PID/stat.
ARG_START, ARG_END = 48, 49


class Request(TypedDict):
    """A command line of DVC, without its first word, and where it is to run."""

    words: list[str]
    folder: str
    environment: dict[str, str]


def threads_of(pid: int) -> int:
    """The number of threads of a process."""
    return len(os.listdir(f"/proc/{pid}/task"))


def serve(control: int, code: Path, beside: int = 0) -> list[str]:
    """Fork for each request that comes by this socket. Returns in the children alone, each with its words. code: where a
    module that was loaded from below it has changed since, the children load theirs anew. beside: threads of libraries that
    are ready for forks."""
    if threads_of(os.getpid()) != 1 + beside:  # a fork has one, and waits for ever for what the others held
        os._exit(os.EX_UNAVAILABLE)
    os.close(os.pidfd_open(os.getpid()))  # raises where the kernel has none: better now than at a child's end
    server, asked, since = os.getpid(), socket.socket(fileno=control), process_start_ns()
    events, children = select.poll(), dict[int, tuple[socket.socket, int]]()
    events.register(asked, select.POLLIN)
    gc.freeze()  # else the children copy all that a collection would touch
    while True:
        for ready, _ in events.poll():
            if ready != control:
                events.unregister(ready)
                answer, pid = children.pop(ready)
                # its code is wanted, or who began it has ended: no reason to wait for it here
                if ready == answer.fileno():
                    ending = os.pidfd_open(pid)
                    children[ending] = answer, pid
                    events.register(ending, select.POLLIN)
                else:
                    os.close(ready)
                    _tell(answer, pid)
                continue
            word, descriptors, _, _ = socket.recv_fds(asked, 1, 2, socket.MSG_CMSG_CLOEXEC)
            if not word:
                os._exit(0)
            output, answer = descriptors[0], socket.socket(fileno=descriptors[1])
            try:
                pid = os.fork()
            except OSError:  # no room for one more: whoever asked starts DVC itself, and says so if that fails as well
                os.close(output)
                answer.close()
                continue
            if not pid:
                request = _begin(server, answer, [asked, *(other for other, _ in children.values())])
                return _become(request, output, is_unchanged(code, since))
            os.close(output)
            children[answer.fileno()] = answer, pid
            events.register(answer, select.POLLRDHUP)


def _tell(answer: socket.socket, pid: int) -> None:
    """The exit code of a child that has ended; nobody may be there any more to be told."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with answer, suppress(OSError):
        answer.sendall(NUMBER.pack(code))


def _begin(server: int, answer: socket.socket, others: Iterable[socket.socket]) -> Request:
    """The request of this child, which ends here where the server or whoever asked has ended."""
    for other in others:
        other.close()
    os.setsid()
    at_parents_end(signal.SIGTERM)
    if os.getppid() != server:  # it ended before the kernel was asked
        os._exit(os.EX_UNAVAILABLE)
    try:
        with answer, answer.makefile("rb") as said:
            answer.sendall(NUMBER.pack(os.getpid()))
            (size,) = NUMBER.unpack(said.read(NUMBER.size))
            request: Request = json.loads(said.read(size))
            return request
    except (OSError, ValueError, struct.error):  # closed, or cut off in its middle
        os._exit(os.EX_UNAVAILABLE)


def _become(request: Request, output: int, is_current: bool) -> list[str]:
    """Take on the request's output, folder, environment and name; returns its words. Begins DVC anew where the code that was
    loaded is no longer that on the disk, and where the name would not fit."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    words = request["words"]
    command = [sys.executable, "-P", sys.argv[0], *words]
    if not is_current or not show(command):
        _begin_anew(command)
    sys.argv[1:] = words  # DVC's table of who uses what has these
    return words


def _begin_anew(command: list[str]) -> NoReturn:
    os.execv(command[0], command)


def show(command: list[str]) -> bool:
    """Have `ps`, and all that reads /proc, show this command as that of this process; False where there is too little room for
    it, which is that of the arguments it was started with."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[ARG_START - 3]), int(fields[ARG_END - 3])
    text = " ".join(command).encode(errors="surrogateescape")
    if len(text) + 2 > end - start:
        return False
    # A last byte that is no zero tells the kernel that the text was replaced and ends at its first zero.
    room = text.ljust(end - start - 1, b"\0") + b"\n"
    ctypes.memmove(start, room, len(room))
    return True


def is_unchanged(code: Path, since: int) -> bool:
    """Whether the files of all modules that were loaded from below this folder are as they were at this time, in ns."""
    files = [file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
    try:
        return all(os.stat(file).st_ctime_ns < since for file in files if Path(file).is_relative_to(code))
    except FileNotFoundError:
        return False

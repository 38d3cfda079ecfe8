"""The process that tests' stages are forked off: it holds the libraries, imported once, and nothing of this project's code.

    python -m tests.forks.server LISTENS torch,numpy,...

It ends with the last of those who have connected to the socket LISTENS. Each message of theirs is a command to run (JSON: cwd,
environment, module, arguments) with three descriptors: where its output goes, where its errors go, and a socket on which the
server says its process number and, when it has ended, its exit status as waitpid has it.
The fork runs `python -m module arguments` as the interpreter would: its own imports, its own exit.
"""

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from typing import Any

import numba

from flows.stage.as_module import forget_ours, run_as_main

LARGEST = 1 << 20  # bytes of a command: an environment is some 10 KiB


def serve(listens: socket.socket) -> dict[str, Any]:
    """The command that this process is to run: returns in each fork, never in the server, which ends with its last client."""
    woken, wakes = socket.socketpair()
    woken.setblocking(False)
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests and their stages
    running, controls = dict[int, socket.socket](), set[socket.socket]()
    with selectors.DefaultSelector() as selector:
        selector.register(listens, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is woken:
                    woken.recv(4096)
                    report_ended(running)
                    continue
                if key.fileobj is listens:
                    control, _ = listens.accept()
                    selector.register(control, selectors.EVENT_READ)
                    controls.add(control)
                    continue
                control = key.fileobj
                message, descriptors, *_ = socket.recv_fds(control, LARGEST, 3)
                if not message:
                    selector.unregister(control)
                    controls.remove(control)
                    control.close()
                    if not controls:
                        os._exit(0)
                    continue
                output, errors, said = descriptors
                teller = socket.socket(fileno=said)
                pid = os.fork()
                if pid:
                    os.close(output)
                    os.close(errors)
                    running[pid] = teller
                    tell(teller, pid)
                    continue
                signal.set_wakeup_fd(-1)
                for each in (listens, *controls, woken, wakes, teller, *running.values()):
                    each.close()
                os.dup2(output, 1)
                os.dup2(errors, 2)
                os.close(output)
                os.close(errors)
                return json.loads(message)


def report_ended(running: dict[int, socket.socket]) -> None:
    """Tell those who asked of what has ended."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with running.pop(pid) as teller:
            tell(teller, os.waitstatus_to_exitcode(status))


def tell(teller: socket.socket, number: int) -> None:
    """One number, a line; whoever asked may have gone."""
    try:
        teller.sendall(f"{number}\n".encode())
    except OSError:
        pass


def become(command: dict[str, Any]) -> None:
    """Make this fork what a new interpreter would be at the start of `python -m`."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    own = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    os.chdir(command["cwd"])
    coerced = {name: value for name, value in os.environ.items() if name == "LC_CTYPE"}  # Python sets it at its start
    os.environ.clear()
    os.environ.update(coerced | command["environment"])
    given = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    rest = sys.path[1 + len(own) :]
    sys.path[:] = [os.getcwd(), *given, *rest]
    sys.path_importer_cache.clear()
    sys.argv[:] = ["-m", *command["arguments"]]
    sys.orig_argv[:] = [sys.executable, "-m", command["module"], *command["arguments"]]


if __name__ == "__main__":
    for library in sys.argv[2].split(","):
        importlib.import_module(library)
    numba.njit("i8(i8)")(lambda x: x)  # its compiler fills its tables at its first use: half a second
    gc.collect()
    gc.freeze()  # else a fork's first collection writes to each object, and so copies its page
    command = serve(socket.socket(fileno=int(sys.argv[1])))
    become(command)
    forget_ours()
    run_as_main(command["module"])

"""Ports of 127.0.0.1 for servers that tests start: each is one test's alone, whatever other tests run on this machine.

A port that the system picks is free again until the server has bound it, and whoever gets it in between answers in its place.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import TextIO

RANGE = range(20_000, 30_000)  # below those that systems hand out by themselves
_held = list[TextIO]()
_dead = list[socket.socket]()


def free_port() -> int:
    """A port that nobody listens on, and that no other call on this machine returns while this process lives."""
    folder = Path(tempfile.gettempdir()) / f"tokenmill-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True, mode=0o700)
    for port in random.SystemRandom().sample(RANGE, len(RANGE)):
        lock = (folder / str(port)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            continue
        _held.append(lock)
        return port
    raise RuntimeError(f"no port of {RANGE} is free")


def dead_port() -> int:
    """A port that refuses every connection while this process lives: one that is taken, and on which nobody listens."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    _dead.append(taken)
    return taken.getsockname()[1]

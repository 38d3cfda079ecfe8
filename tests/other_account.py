"""Another account of this machine, for tests that run as root: what it can open, and what it is answered."""

import encodings.idna  # noqa: F401 - of names of hosts; the other account may not be able to read Python's own files
import http.client
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.processes import PATIENCE

# one a process of tests: what another run does as its own account is not counted here
UID = 20_000 + os.getpid() % 40_000
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can take another account's place")


def run_as_other_account(work: Callable[[], Any]) -> Any:
    """What the work returns, as JSON has it, in a process of the other account; an error's name where it raises one."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(UID)
            os.setuid(UID)
            try:
                found = work()
            except Exception as error:
                found = type(error).__name__
            os.write(writing, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text)


def status_for_other(url: str, body: dict[str, Any] | None = None) -> int:
    """The status of a GET, or of a POST of this body, that the other account sends."""
    parts = urlsplit(url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")

    def ask() -> int:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)
        data = None if body is None else json.dumps(body)
        connection.request("GET" if data is None else "POST", path, data, {"Content-Type": "application/json"})
        return connection.getresponse().status

    return run_as_other_account(ask)


def can_other_account_read(path: Path) -> bool:
    """Whether the other account can open this file for reading, once it has come as far as the folder."""
    folder = os.open(path.parent, os.O_RDONLY)  # what stands above it, such as pytest's own folder, is not asked about

    def look() -> bool:
        os.close(os.open(path.name, os.O_RDONLY, dir_fd=folder))
        return True

    try:
        return run_as_other_account(look) is True
    finally:
        os.close(folder)

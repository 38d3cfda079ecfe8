"""A command of the project in this process: what `python -m module` reads, prints and returns, without the seconds of its
imports."""

import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout

import pytest


def run_main(main: Callable[[], int | None], *words: object, typed: bytes = b"") -> subprocess.CompletedProcess[str]:
    """How the command ends whose `main` this is, with these words, `typed` being its input."""
    out, errors = io.StringIO(), io.StringIO()
    command, status = [main.__module__, *map(str, words)], 0
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(errors):
        patched.setattr(sys, "argv", command)
        patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed)))
        try:
            status = main() or 0
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            status = 1 if isinstance(end.code, str) else end.code or 0
    return subprocess.CompletedProcess(command, status, out.getvalue(), errors.getvalue())

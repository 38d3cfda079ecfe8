"""A fork as the process that `python -m MODULE` would have been: this project's modules forgotten, its module run, its end."""

import atexit
import ctypes
import gc
import io
import os
import runpy
import sys
import threading
from contextlib import suppress
from types import ModuleType
from typing import NoReturn

OURS = ("flows", "kernels", "lm", "tasks", "tests", "tokenmill")


def forget_ours() -> None:
    """Leave no module of this project: what runs here imports it from where it stands."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]


def run_as_main(module: str) -> NoReturn:
    """Run the module, with the arguments that are in sys.argv, and end as the interpreter does. An interrupt is raised."""
    servers = sys.modules["__main__"]  # kept: what runs here is its code
    main = ModuleType("__main__")
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main  # multiprocessing knows it by the second name
    main.__dict__["__builtins__"] = servers.__dict__["__builtins__"]
    try:
        runpy._run_module_as_main(module)  # type: ignore[attr-defined]  # what `python -m` calls
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            print(ended.code, file=sys.stderr)
        exit_interpreter(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
    except Exception:
        sys.excepthook(*sys.exc_info())
        exit_interpreter(1)
    exit_interpreter(0)


def exit_interpreter(code: int) -> NoReturn:
    """Threads joined, functions at exit called, all that is written flushed. What an interpreter does then, take apart all that
    was imported, takes a second of a process with torch, each page of it being its parent's until then."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for kind in io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom:  # texts stand on bytes
        for each in [found for found in gc.get_objects() if isinstance(found, kind)]:
            with suppress(ValueError, OSError):  # closed, or for reading
                each.flush()
    ctypes.CDLL(None).fflush(None)
    os._exit(code & 0xFF)

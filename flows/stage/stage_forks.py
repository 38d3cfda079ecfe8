"""Stages that train as forks of a process that has imported torch once: `python -m tasks.runner sft` less the 3 s that takes.

A DVC that `flows/stage/fork_server.py` has forked off a server with torch leaves, before it imports anything, a keeper behind:
a child in its session that is as the server was. The keeper forks each stage that DVC would begin by a shell, and ends with
DVC. The stage imports this project's code from the folder that it runs in, as a new process does.
"""

import gc
import importlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.stage.as_module import forget_ours
from flows.stage.fork_server import NUMBER, show, threads_of
from tasks.core.process import at_parents_end

# What every stage that trains imports, or its record, which names the libraries it had, would tell of others.
LIBRARIES = (
    "pathspec", "psutil", "pydantic.json_schema", "pydantic.main", "pydantic.types", "ruamel.yaml",
    "safetensors.torch", "tokenizers", "torch", "tqdm",
)  # fmt: skip
# A stage that imports torch as it loads declares the one among its params, and has the other in its `meta`.
NEEDS, DEVICES = "libraries.torch", "gpus"
COMMAND = re.compile(r"python -m tasks\.runner( [\w.@-]+)+")
# An interpreter, a loader or a library reads these once, so that a fork has those of the server.
READ_AT_THE_START = (
    "ARROW_", "ATEN_", "BASH_ENV", "CUDA_", "DNNL_", "GLIBC_", "GOMP_", "GOTO_", "KMP_", "LANG", "LC_", "LD_", "MALLOC_",
    "MKL_", "NCCL_", "NPY_", "NUMBA_", "NUMEXPR_", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTHON", "PYTORCH_", "TORCH",
    "TRITON_",
)  # fmt: skip
AUDIT = "TOKENMILL_AUDIT"  # what is audited is all that a process reads from its start on
ASKED = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Start:
    """How the server began: the settings that its forks cannot change, its path less PYTHONPATH, and how many threads its
    libraries have, all of numpy's BLAS, which takes care of forks itself."""

    settings: dict[str, str]
    path: list[str]
    threads: int


def begin_with_libraries() -> Start:
    """Import what the stages are to have, torch among it."""
    importlib.import_module("numpy")
    threads = threads_of(os.getpid()) - 1
    for name in LIBRARIES:
        importlib.import_module(name)
    own = python_path(os.environ)
    return Start(read_at_the_start(os.environ), [path for path in sys.path if path not in own], threads)


def read_at_the_start(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a running process cannot take over."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_AT_THE_START) and name != "PYTHONPATH"
    }


def python_path(environment: Mapping[str, str]) -> list[str]:
    """The folders of PYTHONPATH, as an interpreter that begins here has them."""
    given = environment.get("PYTHONPATH")
    return [os.path.abspath(path) for path in given.split(os.pathsep)] if given else []


def imports_torch(params: Iterable[str], meta: Mapping[str, Any] | None) -> bool:
    """Whether a stage of dvc.yaml has torch from its start: data stages have it where a method asks."""
    return NEEDS in params and bool((meta or {}).get(DEVICES))


class Keeper:
    """A child of this process that forks stages."""

    def __init__(self, start: Start) -> None:
        """Fork it. This returns in the stages too, whose `stage` is then the command that they are to become."""
        self._settings, parent = start.settings, os.getpid()
        self.stage: list[str] | None = None
        self._socket, its = socket.socketpair()
        self._pid = os.fork()
        if self._pid:
            its.close()
            return
        self._socket.close()
        at_parents_end(signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel was asked
            os._exit(os.EX_UNAVAILABLE)
        # the group is told to end as one: this is here until DVC is not
        before = {number: signal.signal(number, signal.SIG_IGN) for number in ASKED}
        self.stage = _keep(its, start.path, before)

    def end(self) -> None:
        """Have it end, and take note that it has."""
        self._socket.close()
        os.waitpid(self._pid, 0)

    def can(self, command: str, environment: Mapping[str, str]) -> bool:
        """Whether a fork would be what a shell makes of this command: a stage, by our Python, with the server's own settings of
        the interpreter and of the libraries."""
        python = shutil.which("python", path=environment.get("PATH"))
        return (
            COMMAND.fullmatch(command) is not None
            and python is not None
            and Path(python).parent == Path(sys.executable).parent
            and read_at_the_start(environment) == self._settings
            and not any(name.startswith(AUDIT) for name in environment)
        )

    def run(self, command: str, folder: str, environment: Mapping[str, str]) -> int:
        """The exit code of a stage, as that of a Popen; that of a killed one where the keeper has been killed."""
        request = {"words": command.split(), "folder": folder, "environment": dict(environment)}
        text = json.dumps(request).encode()
        try:
            self._socket.sendall(NUMBER.pack(len(text)) + text)
            code = self._socket.recv(NUMBER.size, socket.MSG_WAITALL)
        except OSError:
            code = b""
        return int(NUMBER.unpack(code)[0]) if code else -signal.SIGKILL


def _keep(asked: socket.socket, path: list[str], before: Mapping[signal.Signals, Any]) -> list[str]:
    """Fork for each request. Returns in the stages alone, each with its words; ends with who asks. before: what signals did."""
    while length := asked.recv(NUMBER.size, socket.MSG_WAITALL):
        request = json.loads(asked.recv(NUMBER.unpack(length)[0], socket.MSG_WAITALL))
        signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)  # one that comes now is for the stage
        pid = os.fork()
        if not pid:
            for number, action in before.items():
                signal.signal(number, action)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)
            asked.close()
            return _become(request, path)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)
        asked.sendall(NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    os._exit(0)


def _become(request: dict[str, Any], path: list[str]) -> list[str]:
    """Make this fork what a new interpreter is at the start of `python -m`; its words."""
    gc.enable()
    words: list[str] = request["words"]
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"] | {"PWD": request["folder"]})  # as a shell has it
    forget_ours()
    sys.path[:] = [os.getcwd(), *python_path(os.environ), *path]
    sys.path_importer_cache.clear()
    sys.orig_argv[:] = words
    sys.argv[:] = words[1:2] + words[3:]
    tempfile.tempdir = None  # found anew, by this environment
    sys.modules["torch"].default_generator.seed()  # what nobody has seeded is not the same in all stages
    show(words)
    return words


def use(keeper: Keeper) -> None:
    """Have DVC, in this process, begin by the keeper those stages that need torch and can be forked; the others as ever."""
    from dvc.stage import run
    from dvc.stage.exceptions import StageCmdFailedError

    plain_stage, plain_run, needing = run.cmd_run, run._run, [False]

    def cmd_run(stage: Any, *options: Any, **more: Any) -> None:
        names = [name for dep in stage.deps for name in getattr(dep, "params", None) or []]
        needing[0] = imports_torch(names, stage.meta)
        plain_stage(stage, *options, **more)

    def begin(executable: str | None, cmd: str, **options: Any) -> None:
        environment = options["env"]
        if not (needing[0] and keeper.can(cmd, environment)):
            plain_run(executable, cmd, **options)
            return
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as DVC does while it waits
        try:
            code = keeper.run(cmd, str(options["cwd"]), environment)
        finally:
            signal.signal(signal.SIGINT, before)
        if code:
            raise StageCmdFailedError(cmd, code)

    run.cmd_run, run._run = cmd_run, begin

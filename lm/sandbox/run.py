"""Run a Python program of a model in a process that cannot harm this one: what it wrote, and how it ended.

    run_program("print(6 * 7)").out  # "42\\n"

Every program has limits of its own, an empty folder that goes away, nothing on stdin, and the standard library alone. What it
is kept from depends on the kernel, and is tried once a process:

| | namespaces | bare |
| --- | --- | --- |
| processor, address space, files, processes, output, time | limited | limited |
| network | none: a namespace without a device | refused by a hook in the interpreter, which foreign code can get round |
| files of the project, of the user | not there; /usr and the interpreter's folder are, to be read | refused by the hook |
| other processes | not there | refused by the hook; as root, the program is another user |
| what it leaves running | ended by the kernel with its first process | looked for and killed for 5 s |

Not defended: faults of the kernel itself, and time and memory within the limits, which are those of each process, so that a
program may have its memory as often as it may have processes.
"""

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO

from lm.config import ConfigError

FOLDER = Path(__file__).parent
LAUNCHER, BOOT, PROJECT = FOLDER / "launcher.py", FOLDER / "boot.py", FOLDER.parent.parent
MODES = ("namespaces", "bare")
GRACE_SECONDS = 20.0  # after which the launcher itself is killed, beyond the program's own seconds
PIECE = 1 << 16


@dataclass(frozen=True)
class Limits:
    """Limits of a program. cpu_seconds: whole ones of a processor, of each process, and one more for one that ignores SIGXCPU.
    seconds: of the clock. memory: bytes of address space of each process. files: bytes of all files. processes: those and their
    threads, the program included. output: bytes that it may write to each of stdout and stderr, with the next of which it is
    ended."""

    cpu_seconds: int = 2
    seconds: float = 10.0
    memory: int = 512 << 20
    files: int = 16 << 20
    processes: int = 8
    output: int = 1 << 16


@dataclass(frozen=True)
class Outcome:
    """How a program ended. code: its exit status, minus the signal that killed it, None where the sandbox ended it, and then
    `reason` says why in a line. Output is cut at the limit, and bytes that are no UTF-8 are U+FFFD."""

    out: str
    err: str
    code: int | None
    reason: str | None = None


def run_program(source: str, limits: Limits | None = None) -> Outcome:
    """Outcome of a program. Raises ConfigError where this machine can make no sandbox."""
    return _run(source, limits or Limits(), mode())


def run_programs(sources: Sequence[str], limits: Limits | None = None) -> list[Outcome]:
    """Outcomes of programs, in their order, as many at once as there are processors. Raises ConfigError as run_program."""
    if not sources:
        return []
    chosen = mode()
    with ThreadPoolExecutor(min(len(sources), len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(lambda source: _run(source, limits or Limits(), chosen), sources))


@cache
def mode() -> str:
    """The strongest of MODES that works here. Says on stderr what is not defended where that is not the first one. Raises
    ConfigError where none does."""
    found = dict[str, str]()
    for name in MODES if sys.platform == "linux" else ():
        outcome = _run("print(6 * 7)", Limits(seconds=60.0), name)
        if outcome.out == "42\n":
            if found:
                print(
                    f"sandbox: no namespaces here ({found[MODES[0]]}): what keeps programs from network and files is a hook in "
                    "their interpreter, which holds no program that means to get round it",
                    file=sys.stderr,
                )
            return name
        found[name] = outcome.reason or outcome.err.strip().rpartition("\n")[2] or f"exit status {outcome.code}"
    said = "; ".join(f"{name}: {why}" for name, why in found.items()) or f"{sys.platform} is no Linux"
    raise ConfigError(f"sandbox: programs of a model cannot be shut in on this machine ({said}): choose what runs none")


def end_group(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    """Kill what is left of a process and of all in its group, which it leads."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def interpreter() -> tuple[str, str]:
    """(path, folder of its library) of the Python that programs are run by: the one that this one's environment was made of."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable)), os.path.realpath(sys.base_prefix)


def _run(source: str, limits: Limits, chosen: str) -> Outcome:
    python, prefix = interpreter()
    folder = Path(tempfile.mkdtemp(prefix="tokenmill-sandbox-"))
    reading, writing = os.pipe()
    try:
        request = {
            **asdict(limits), "mode": chosen, "folder": str(folder), "python": python, "prefix": prefix,
            "hidden": str(PROJECT), "parent": os.getpid(), "boot": BOOT.read_text(),
        }  # fmt: skip
        (folder / "program.py").write_bytes(source.encode(errors="replace"))
        (folder / "request.json").write_text(json.dumps(request))
        surroundings = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        process = subprocess.Popen(
            [python, "-I", "-S", str(LAUNCHER), str(folder), str(writing)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[writing], env=surroundings,
            start_new_session=True, cwd="/",
        )  # fmt: skip
        os.close(writing)
        writing = -1
        with os.fdopen(reading, "rb", buffering=0) as status:
            return _watched(process, status, limits)
    finally:
        if writing >= 0:
            os.close(writing)
            os.close(reading)
        with suppress(RecursionError):  # folders in folders, where the program had a disk to make them on
            shutil.rmtree(folder, ignore_errors=True)


def _watched(process: "subprocess.Popen[bytes]", status: IO[bytes], limits: Limits) -> Outcome:
    """What a launcher's program wrote until the launcher ended, by which all else has."""
    assert process.stdout and process.stderr
    written: dict[IO[bytes], bytearray] = {pipe: bytearray() for pipe in (process.stdout, process.stderr, status)}
    end, loud = time.monotonic() + limits.seconds + GRACE_SECONDS, False
    with process.stdout, process.stderr, selectors.DefaultSelector() as selector:
        for pipe in written:
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ, pipe)
        while process.poll() is None and (left := end - time.monotonic()) > 0:
            for key, _ in selector.select(min(left, 0.05)):
                if not _read(key.data, written):
                    selector.unregister(key.data)
                elif key.data is not status:
                    del written[key.data][limits.output + 1 :]  # nothing of a flood is kept
            if not loud and any(len(written[pipe]) > limits.output for pipe in (process.stdout, process.stderr)):
                loud = True
                process.terminate()
            if not selector.get_map():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(end - time.monotonic(), 0))
        end_group(process)
        process.wait()
        for pipe in written:
            while len(written[pipe]) <= limits.output and _read(pipe, written):
                pass
        loud = loud or any(len(written[pipe]) > limits.output for pipe in (process.stdout, process.stderr))
        out, err = (bytes(written[pipe][: limits.output]) for pipe in (process.stdout, process.stderr))
    return _outcome(out.decode(errors="replace"), err.decode(errors="replace"), written[status].decode(), loud, limits)


def _read(pipe: IO[bytes], written: dict[IO[bytes], bytearray]) -> bool:
    """Whether there was something more to read of a pipe, which is then among what was written."""
    try:
        piece = os.read(pipe.fileno(), PIECE)
    except BlockingIOError:
        return False
    written[pipe] += piece
    return bool(piece)


def _outcome(out: str, err: str, said: str, loud: bool, limits: Limits) -> Outcome:
    """What a launcher's lines mean."""
    lines = {line.partition(" ")[0]: line.partition(" ")[2] for line in said.splitlines()}
    reason, code = None, None
    if "error" in lines:
        reason = lines["error"]
    elif loud:
        reason = f"wrote more than {limits.output} bytes"
    elif "late" in lines:
        reason = f"took longer than {limits.seconds:g} s"
    elif "ended" not in lines:
        reason = "its sandbox was killed"
    else:
        number, used = lines["ended"].split()
        code = os.waitstatus_to_exitcode(int(number))
        # the kernel counts what is limited in ticks, a fifth or so off from what it says was used
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and float(used) >= 0.8 * limits.cpu_seconds):
            reason, code = f"took longer than {limits.cpu_seconds} s of a processor", None
    if "left" in lines and reason is None:
        reason = "left processes that could not be ended"
    return Outcome(out, err, code, reason)

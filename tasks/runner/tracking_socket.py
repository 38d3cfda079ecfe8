"""The process that runs the pipeline records for its stages, which need not import mlflow then: 1.7 s of a core each.

It serves a Unix socket in a folder of this user alone. A stage sends Begin, Point, Samples and End as lines, and is answered
Made, Said and Over; a connection that ends before End is that of a stage that was killed.
"""

import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from queue import SimpleQueue

from tasks.runner.settings import TRACKING_SECONDS
from tasks.runner.tracking import guarded, record
from tasks.runner.tracking_events import (
    Answer,
    Begin,
    End,
    Event,
    Over,
    Said,
    all_that_wait,
    answer_of,
    event_of,
    line_of,
)

RECORDER = "TOKENMILL_RECORDER"  # the path of the socket, in the environment of a stage


@contextmanager
def recorder() -> Iterator[dict[str, str]]:
    """Environment by which stages have this process record their runs, until the end of the context, which waits for the last
    of them, TRACKING_SECONDS at most. Empty where tracking is off, and, after a warning, where no socket can be made."""
    with ExitStack() as stack:
        listener = guarded("recording for the stages", lambda: _listener(stack))
        if listener is None:
            yield {}
            return
        records: list[threading.Thread] = []
        threading.Thread(target=_serve, args=(listener, records), name="recorder", daemon=True).start()
        try:
            yield {RECORDER: listener.getsockname()}
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for another stage, which closes it
            deadline = time.monotonic() + TRACKING_SECONDS.read()
            for thread in records:
                thread.join(max(0.0, deadline - time.monotonic()))


def sent(path: str, begin: Begin, events: SimpleQueue[Event], answer: Callable[[Answer], None]) -> bool:
    """Send a stage's run to the recorder at this path and wait until its End is recorded: True; False where nobody is there. A
    thread hands each answer to `answer`. Raises ConnectionError where the recorder went before it was done."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
        except OSError:
            return False
        answers: list[Answer] = []
        listens = threading.Thread(target=_hear, args=(connection, answer, answers), name="recorder", daemon=True)
        listens.start()
        said: list[Event] = [begin]
        with suppress(OSError):  # what it had to say is heard all the same
            connection.sendall(line_of(begin))
            while not isinstance(said[-1], End):
                said = all_that_wait(events)
                connection.sendall(b"".join(map(line_of, said)))
        listens.join()
    if Over() not in answers:
        raise ConnectionError("the process that recorded it has gone")
    return True


def _hear(connection: socket.socket, answer: Callable[[Answer], None], answers: list[Answer]) -> None:
    with suppress(OSError, ValueError), connection.makefile("rb") as lines:
        for line in lines:
            answers.append(answer_of(line))
            answer(answers[-1])


def _listener(stack: ExitStack) -> socket.socket:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tokenmill-"))  # mode 0700
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(os.path.join(folder, "recorder"))
        os.chmod(listener.getsockname(), 0o600)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def _serve(listener: socket.socket, records: list[threading.Thread]) -> None:
    with listener, suppress(OSError):  # once closed, stages record for themselves
        while True:
            connection, _ = listener.accept()
            records.append(threading.Thread(target=_take, args=(connection,), name="record", daemon=True))
            records[-1].start()


def _take(connection: socket.socket) -> None:
    """Record one stage's run. Another thread reads what it sends as it comes: a slow store holds no stage up."""
    events: SimpleQueue[Event] = SimpleQueue()
    reads = threading.Thread(target=_read, args=(connection, events), name="recorder", daemon=True)
    reads.start()

    def answer(message: Answer) -> None:
        with suppress(OSError):  # a stage that is gone
            connection.sendall(line_of(message))

    with connection:
        begin = events.get()
        if isinstance(begin, Begin):
            guarded(begin.stage, lambda: record(begin, events, answer), lambda line: answer(Said(line)))
            answer(Over())
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # ends the reading, where the record could not be made
        reads.join()


def _read(connection: socket.socket, events: SimpleQueue[Event]) -> None:
    with suppress(OSError, ValueError), connection.makefile("rb") as lines:
        for line in lines:
            events.put(event := event_of(line))
            if isinstance(event, End):
                return
    events.put(End("KILLED", {}, {}, int(time.time() * 1000)))

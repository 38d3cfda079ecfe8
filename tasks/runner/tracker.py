"""A stage's own record of its run: handed to the process that runs the pipeline, else kept by a thread here."""

import os
import threading
import time
from queue import SimpleQueue
from typing import Any

from tasks.runner.graph import Entry
from tasks.runner.names import flatten
from tasks.runner.record import PARENT_RUN, process_tags
from tasks.runner.say import say
from tasks.runner.settings import TRACKING_SECONDS
from tasks.runner.tracking import enabled, guarded, record
from tasks.runner.tracking_events import Answer, Begin, End, Event, Made, Point, Said, Samples
from tasks.runner.tracking_socket import RECORDER, sent
from tasks.runner.unended import Ending, note


class Tracker:
    """The record of one stage's run. Everything is said to a queue; the thread behind it never holds the stage up."""

    def __init__(self, entry: Entry, key: str, md5s: dict[str, str], params: dict[str, Any]) -> None:
        self._began, self._waits = _now(), TRACKING_SECONDS.read()
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._made: Made | None = None
        self._thread: threading.Thread | None = None
        if enabled():
            work = (entry, key, md5s, {name: params[name] for name in entry.params if name in params})
            self._thread = threading.Thread(
                target=lambda: guarded(entry.address, lambda: self._tell(*work)), daemon=True
            )
            self._thread.start()

    def point(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each curve."""
        if self._thread and self._thread.is_alive():  # else it would pile up for nobody
            self._events.put(Point(step, values, _now()))

    def samples(self, step: int, texts: dict[str, str]) -> None:
        """Keep what the model made of each prompt, an artifact samples/<step>.txt."""
        if self._thread and self._thread.is_alive():
            self._events.put(Samples(step, texts))

    def close(
        self, status: str, metrics: dict[str, float], facts: dict[str, float], tags: dict[str, str] | None = None
    ) -> None:
        """End the run (FINISHED, FAILED or KILLED), and wait a bounded time until it is recorded."""
        if self._thread:
            final = {**{f"final.{k}": v for k, v in metrics.items()}, **{f"run.{k}": v for k, v in facts.items()}}
            end = End(status, final, tags or {}, _now())
            if self._made:  # before the wait: the store may be locked, or gone, until this process has ended
                note(self._made.store, Ending(self._made.run, status, end.at))
            self._events.put(end)
            self._thread.join(self._waits)
            if self._thread.is_alive():
                say(f"warning: tracking: gave up after {self._waits:.0f} s", error=True)

    def _tell(self, entry: Entry, key: str, md5s: dict[str, str], params: dict[str, Any]) -> None:
        tags = process_tags() | {"dvc.stage": entry.address, "stage.key": key, "dvc.out": " ".join(entry.outs)}
        if parent := os.environ.get(PARENT_RUN):
            tags["mlflow.parentRunId"] = parent
        begin = Begin(entry.address, self._began, tags, flatten(params), md5s)
        path = os.environ.get(RECORDER)
        if not (path and sent(path, begin, self._events, self._hear)):
            record(begin, self._events, self._hear)

    def _hear(self, message: Answer) -> None:
        match message:
            case Made():
                self._made = message
            case Said(line):
                say(line, error=True)


def _now() -> int:
    """ms since 1970."""
    return int(time.time() * 1000)

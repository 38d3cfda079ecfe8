"""How far each stage is, as progress artifacts of its task run in the Prefect UI."""

import contextvars
import threading
import time
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.stage.process import PROGRESS
from tasks.report.words import duration

# Between two updates of a stage's bar: each is a request to the server, and a person sees no more.
UPDATE_SECONDS = 3.0


@dataclass
class _Bar:
    """One stage's: the newest line, the context of its task run, and the artifact once there is one."""

    context: contextvars.Context
    now: tuple[float, str]
    shown: tuple[float, str] | None = None
    artifact: UUID | None = None


class ProgressArtifacts:
    """A progress artifact for each stage that says how far it is, moved every UPDATE_SECONDS by a thread of its own.

    A server that is slow or gone must not hold a stage up, whose lines wait to be read: they are only noted here, the newest
    is sent, and what cannot be sent is left out.
    """

    def __init__(self) -> None:
        self._bars: dict[str, _Bar] = {}
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._thread: threading.Thread | None = None

    def line(self, address: str, text: str) -> None:
        """A line that a stage printed; called in the context of its task run."""
        found = PROGRESS.fullmatch(text.strip())
        if not found:
            return
        _, done, total, unit, eta, figures = found.groups(default="")
        left = f"{duration(float(eta))} left" if int(eta) else ""
        words = ", ".join(filter(None, [f"{done} of {total} {unit}", figures, left]))
        now = (100 * int(done) / max(int(total), 1), f"{address}: {words}")
        with self._lock:
            self._bars.setdefault(address, _Bar(contextvars.copy_context(), now)).now = now
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def ended(self, address: str, how: str, done: bool) -> None:
        """The last word on a stage: a bar that was begun is full, or stays where the stage failed."""
        with self._lock:
            bar = self._bars.pop(address, None)
        if bar:
            bar.now = (100.0 if done else bar.now[0], f"{address}: {how}")
            self._send(address, bar)

    def _run(self) -> None:
        """Send the bars every UPDATE_SECONDS until no stage has one any more."""
        while True:
            time.sleep(UPDATE_SECONDS)
            with self._lock:
                bars = list(self._bars.items())
                if not bars:
                    self._thread = None
                    return
            for address, bar in bars:
                self._send(address, bar)

    def _send(self, address: str, bar: _Bar) -> None:
        with self._sending:
            now = bar.now
            if now == bar.shown:
                return
            try:
                bar.context.run(_show, address, bar, *now)
                bar.shown = now
            except Exception:  # noqa: BLE001, S110 - by contract: a bar that cannot be shown costs nothing else
                pass


def _show(address: str, bar: _Bar, percent: float, words: str) -> None:
    if bar.artifact is None:
        key = "".join(letter if letter.isalnum() else "-" for letter in address.lower())
        bar.artifact = cast(UUID, create_progress_artifact(percent, key=f"progress-{key}", description=words))
    else:
        update_progress_artifact(bar.artifact, percent, description=words)

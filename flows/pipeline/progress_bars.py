"""What a person sees while stages run: a bar for each on a terminal, plain lines elsewhere, and in the Prefect UI."""

import sys
import threading
import time

from tqdm import tqdm

from flows.pipeline.progress_artifacts import ProgressArtifacts
from flows.stage.process import PROGRESS
from tasks.runner.progress import clock
from tasks.runner.say import say

LINE_SECONDS = 5.0


class Bars:
    """Shows the lines of all stages; safe to use from several threads."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm] = {}
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()
        self._terminal = sys.stderr.isatty()
        self._artifacts = ProgressArtifacts()

    def line(self, address: str, text: str) -> str | None:
        """A line that a stage printed: progress moves its bar, anything else is passed on. Returns what a log is to keep of it:
        of progress a line every LINE_SECONDS, in words."""
        found = PROGRESS.fullmatch(text.strip())
        self._artifacts.line(address, text)
        with self._lock:
            if not found:
                if text.strip():
                    self._print(f"{address:>18} | {text}")
                return text.strip() or None
            _, done, total, unit, eta, figures = found.groups(default="")
            if self._terminal:
                self._move(address, int(done), int(total), unit, figures)
            if time.monotonic() - self._said.get(address, 0) < LINE_SECONDS and done != total:
                return None
            self._said[address] = time.monotonic()
            left = f"eta {clock(float(eta))}"
            words = " ".join(filter(None, [f"{done}/{total} {unit}", figures, left]))
            if not self._terminal:
                self._print(f"{address:>18} | {words}")
            return words

    def ended(self, address: str, text: str) -> None:
        """The last word on a stage."""
        with self._lock:
            if bar := self._bars.pop(address, None):
                bar.close()
            self._print(f"{address:>18} | {text}")
        self._artifacts.ended(address, text, done=not text.startswith("failed"))

    def _move(self, address: str, done: int, total: int, unit: str, figures: str) -> None:
        bar = self._bars.get(address)
        if bar is None or bar.total != total or bar.unit != unit:
            if bar:
                bar.close()
            bar = self._bars[address] = tqdm(
                total=total, unit=unit, desc=f"{address:>18}", leave=False, dynamic_ncols=True
            )
        bar.set_postfix_str(figures, refresh=False)
        bar.update(done - bar.n)

    def _print(self, text: str) -> None:
        if self._terminal:
            tqdm.write(text)
        else:
            say(text)

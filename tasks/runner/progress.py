"""How far a stage is: a bar with ETA on a terminal, plain lines elsewhere, and lines for the flow that draws the bars."""

import sys
import time

from tqdm import tqdm

from tasks.runner.say import say
from tasks.runner.settings import PROGRESS

# Nothing is shown for what ends within a second; plain lines come every 5 s, the flow's twice a second.
QUIET_SECONDS, LINE_SECONDS, FLOW_SECONDS = 1.0, 5.0, 0.5


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_short(value: float) -> str:
    """Three figures: 0.0123, 4.56, 789, 11.2k, 3.4M."""
    for power, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * power:
            return f"{value / power:.3g}{letter}" if abs(value) < 999.5 * power else f"{value / power:.0f}{letter}"
    return f"{value:.3g}"


def format_metrics(shown: dict[str, float]) -> str:
    """What is shown beside the count: `11.2k tok/s loss 3.21`."""
    words = {"tokens_per_second": "{} tok/s"}
    return " ".join(words.get(name, f"{name} {{}}").format(format_short(value)) for name, value in shown.items())


class Progress:
    """Shows the progress of one stage: bars on stderr, lines on stdout."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._for_flow = PROGRESS.read() == "lines"
        self._bar: tqdm | None = None
        self._began, self._said = time.monotonic(), float("-inf")
        self._first = 0
        self._unit = ""

    def show(self, done: int, total: int, unit: str, shown: dict[str, float]) -> None:
        """Say that `done` of `total` units are made, if it is time to; a total that was guessed too low grows."""
        now = time.monotonic()
        if unit != self._unit or done < self._first:  # another loop of the stage begins
            self.close()
            self._began, self._first, self._unit = now, done, unit
        elapsed, made, total = now - self._began, done - self._first, max(total, done)
        if elapsed < QUIET_SECONDS or not made:
            return
        eta = elapsed / made * (total - done)
        if self._for_flow:
            if now - self._said >= FLOW_SECONDS or done == total:
                self._say(
                    f"progress {self.address} {done} {total} {unit} eta={eta:.0f} {format_metrics(shown)}".rstrip(), now
                )
        elif sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=total, initial=done, desc=self.address, unit=unit, dynamic_ncols=True)
            self._bar.total = total
            self._bar.set_postfix_str(format_metrics(shown), refresh=False)
            self._bar.update(done - self._bar.n)
        elif now - self._said >= LINE_SECONDS or done == total:
            words = [
                f"{self.address} {done}/{total} {unit} {done / total:.0%}",
                format_metrics(shown),
                f"eta {clock(eta)}",
            ]
            self._say(" ".join(word for word in words if word), now)

    def _say(self, line: str, now: float) -> None:
        say(line)
        self._said = now

    def close(self) -> None:
        """End the bar that stands on the terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

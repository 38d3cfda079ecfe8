"""How far a stage is: a bar with ETA on a terminal, plain lines elsewhere, and lines for the flow that draws the bars."""

import os
import sys
import time

from tqdm import tqdm

# Nothing is shown for what ends within a second; plain lines come every 5 s, the flow's twice a second.
QUIET_SECONDS, LINE_SECONDS, FLOW_SECONDS = 1.0, 5.0, 0.5


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Shows the progress of one stage on stderr (bars) or stdout (lines)."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._for_flow = os.environ.get("TOKENMILL_PROGRESS") == "lines"
        self._bar: tqdm | None = None
        self._began = self._said = time.monotonic()
        self._first = 0
        self._unit = ""

    def show(self, done: int, total: int, unit: str, shown: dict[str, float]) -> None:
        now = time.monotonic()
        if unit != self._unit or done < self._first:  # another loop of the stage begins
            self.close()
            self._began, self._first, self._unit = now, done, unit
        elapsed, made = now - self._began, done - self._first
        if elapsed < QUIET_SECONDS or not made:
            return
        eta = elapsed / made * (total - done)
        if self._for_flow:
            if now - self._said >= FLOW_SECONDS or done == total:
                self._say(f"progress {self.address} {done} {total} {unit} eta={eta:.0f}", now)
        elif sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=total, initial=done, desc=self.address, unit=unit, dynamic_ncols=True)
            self._bar.set_postfix({name: f"{value:,.4g}" for name, value in shown.items()}, refresh=False)
            self._bar.update(done - self._bar.n)
        elif now - self._said >= LINE_SECONDS or done == total:
            figures = "".join(f" {name} {value:,.4g}" for name, value in shown.items())
            self._say(f"{self.address} {done}/{total} {unit} {done / total:.0%}{figures} eta {clock(eta)}", now)

    def _say(self, line: str, now: float) -> None:
        print(line, flush=True)
        self._said = now

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

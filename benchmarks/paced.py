"""A stage in a bench, timed from when it has got going."""

import time

from tasks.core.log import Log


class Paced(Log):
    """The log of a stage that knows when its steps to get going in were over: `began`, in seconds of perf_counter."""

    def __init__(self, warm: int) -> None:
        self._warm, self.began = warm, 0.0

    def progress(self, done: int, total: int, unit: str = "step", **shown: float) -> None:
        if done == self._warm:
            self.began = time.perf_counter()

"""What a stage may say while it runs. The default says nothing, so a test calls `run(config, data, Log())`."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.core.parts import Part, Work, make_parts
from tasks.core.process import Stopped


class Log:
    """The one thing beside its data that a stage sees; the runner gives it a real one.

    scratch: a folder that outlives a kill, for checkpoints of exactly this work; None: there is none, do not checkpoint.
    memo: a folder that outlives the stage, for what was computed of each input by itself under the same params and code; it may
    be old or broken, and must change no result. None: keep nothing.
    stopping: true once SIGTERM arrived; a training loop then checkpoints and raises Stopped.
    """

    scratch: Path | None = None
    memo: Path | None = None
    stopping: bool = False

    def __call__(self, step: int, **values: float) -> None:
        """Add a point to each curve. Only what is the same on every run; kept in data/<stage>/curves.jsonl."""

    def samples(self, step: int, texts: dict[str, str]) -> None:
        """What the model makes of prompts at this step; kept in data/<stage>/samples.jsonl."""

    def digests(self, step: int, values: dict[str, Any]) -> None:
        """What a step of training saw and began with, as lm/training/digests.py has it; kept in data/<stage>/digests.jsonl."""

    def watch(self, step: int, batch: Any, parallel: Any, positions: int) -> None:
        """Look at a step of training before its gradients are made: its batch, and the weights and the optimizer of the ranks,
        which must be left as they are. positions: that a pass holds at most."""

    def rewind(self, step: int) -> None:
        """Forget curves, samples and digests from `step` on: a resumed stage will say them again."""

    def progress(self, done: int, total: int, unit: str = "step", **shown: float) -> None:
        """How far the stage is: a bar with ETA on a terminal, a plain line now and then elsewhere."""

    def fact(self, **values: float) -> None:
        """Facts of this run and machine, such as tokens_per_second; kept in data/timings/<stage>.json."""

    def computed(self, how: dict[str, str]) -> None:
        """What decided the bits of sums beside parameters and the machine, such as precision; kept in the stage's record."""

    def trunks(
        self,
        config: Any,
        steps: int,
        models: list[Any],
        given: list[Any],
        seen: Callable[[int], Iterable[Any]],
        losses: Any = None,
    ) -> Any:
        """The trunks (lm.training.trunks) of a training run that is about to begin; None where it shares none.

        models: those that its loss depends on, with their first weights. given: what else its output depends on in every
        step. seen(step): the data that decide a step, given the weights. losses: those of sequences, which trunks keep too.
        """
        return None

    def map(self, work: Work, items: Sequence[Any], name: str, unit: str = "shard", least: int = 1) -> list[Part]:
        """The parts that `work(item, folder)` makes of the items, in their order; made by any number of workers, so `work` must
        not depend on how many there are. `name` tells this map from the stage's others; least: items for which a process of
        their own pays, where nothing else is asked for."""
        return make_parts(work, items, self.parts / name, lambda done, total: self.progress(done, total, unit), least)

    @cached_property
    def parts(self) -> Path:
        """Where parts live until the stage is done."""
        self._temporary = tempfile.TemporaryDirectory()
        return Path(self._temporary.name)

    def stop(self) -> None:
        """Raise Stopped: the stage has saved what it needs and ends here."""
        raise Stopped

    def trained(self) -> None:
        """The model is whole and final. A rank but the first has no more to do, and its log ends the work here."""

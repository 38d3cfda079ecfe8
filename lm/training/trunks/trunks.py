"""Trunks: states of training runs from which other runs go on, where the same things decided every step so far.

A run that goes on from a trunk ends in the bytes that it would have made alone.
"""

import sys
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lm.optimizers.base import Optimizer
from lm.training.checkpoint.file import Torn, read
from lm.training.checkpoint.snapshot import Entry, size_of
from lm.training.checkpoint.state import Run, difference
from lm.training.precision import compiles
from lm.training.recipe import Recipe
from lm.training.trunks.chain import Chain, branching, link_of, milestones
from lm.training.trunks.store import Place, TrunkStore, place_of

# What the names of tensors begin with that are no state of the run; behind that, of those that the stage has said
RECORD, SAID = "trunk.", "said."


class Record(Protocol):
    """What a stage has said of its steps, which a trunk must hold for those who go on from it."""

    def until(self, steps: int) -> dict[str, Tensor]: ...
    def restore(self, found: dict[str, Tensor]) -> None: ...


class Trunks:
    """The trunks that one run may go on from, and those it leaves. Rank 0 alone has them.

    decided: what decides the run whatever its steps, by names that a message may say. seen(step): the data that decide a step,
    given the weights. unchanged: whether code and data are still those of the run.
    """

    def __init__(
        self,
        store: TrunkStore,
        stage: str,
        decided: dict[str, str],
        recipe: Recipe,
        steps: int,
        seen: Callable[[int], Iterable[Any]],
        record: Record,
        unchanged: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store, self._stage, self._decided, self._recipe, self._steps = store, stage, decided, recipe, steps
        self._record, self._unchanged = record, unchanged
        self._chain = Chain(decided, lambda step: link_of(recipe, steps, seen, step))
        self._milestones = milestones(branching(recipe, steps))
        self._from, self.seconds = 0, 0.0

    @cached_property
    def _root(self) -> str:
        return self._chain[0]

    def load(self, run: Run) -> tuple[int, dict[str, Tensor]]:
        """(steps, state) of the longest trunk of this run, whose record is then restored; (0, {}) when there is none."""
        for path in self._candidates():
            place = place_of(path)
            if place.step >= self._steps or place.digest != self._chain[place.step]:
                continue
            try:
                state, record = _parted(read(path)[1])
                if reason := difference(state, run):
                    raise Torn(reason)
            except FileNotFoundError:  # another process has made room
                continue
            except ValueError as error:
                print(f"{path}: {error}; deleted, it is no trunk", file=sys.stderr)
                path.unlink(missing_ok=True)
                continue
            if place.compiled != self._compiles(run, float(state["execution.flops"])):
                continue
            self._store.used(path)
            self._record.restore(_under(SAID, record))
            self._from = place.step
            self._say(f"goes on from a trunk of {place.step} steps ({path})")
            return place.step, state
        self._say_why_not()
        return 0, {}

    def due(self, step: int, run: Run) -> bool:
        """Whether to keep the state after so many steps: at a milestone, once. What an optimizer makes of the weights at the
        end is no state that a longer run passes through."""
        if step not in self._milestones or not self._unchanged():
            return False
        if step == self._steps and type(run.parallel.optimizer).finish is not Optimizer.finish:
            return False
        began = time.monotonic()
        kept = self._store.used(self._path(step, run))
        self.seconds += time.monotonic() - began
        return not kept

    def record(self, step: int) -> dict[str, Tensor]:
        """What a trunk holds beside the state: the stage's record, and the links, by which two runs are compared."""
        self._chain[step]
        links = self._chain.links[:step]
        found = {SAID + name: tensor for name, tensor in self._record.until(step).items()}
        found["rate"] = torch.tensor([link.rate for link in links], dtype=torch.float64)
        found["share"] = torch.tensor([link.share for link in links], dtype=torch.float64)
        found["seen"] = torch.frombuffer(bytearray.fromhex("".join(link.seen for link in links)), dtype=torch.uint8)
        return {RECORD + name: tensor for name, tensor in found.items()}

    def writer(self, step: int, run: Run) -> Callable[[dict[str, Entry], list[memoryview], dict[str, str]], None]:
        """What writes the trunk of so many steps, later and in another thread. That it cannot is no reason to end a run."""
        path = self._path(step, run)

        def write(entries: dict[str, Entry], data: list[memoryview], metadata: dict[str, str]) -> None:
            try:
                if not self._store.write(path, entries, data, metadata, self._decided):
                    self._milestones = set()
                    self._say(f"keeps no trunk: one of {size_of(data):,} bytes is larger than all of them may be")
            except OSError as error:
                self._say(f"the trunk of {step} steps is not kept: {error}")

        return write

    def run_stats(self) -> dict[str, float]:
        """steps_from_trunk: those that this run did not have to do. trunk_seconds: that keeping trunks held it up."""
        return {"steps_from_trunk": self._from, "trunk_seconds": self.seconds}

    def _candidates(self) -> list[Path]:
        return self._store.trunks(self._stage, self._root)

    def _path(self, step: int, run: Run) -> Path:
        place = Place(step, self._chain[step], run.execution.compiled)
        return self._store.folder / self._stage / self._root / place.name

    def _compiles(self, run: Run, flops: float) -> bool:
        """Whether this run, had it done that first step itself, would be compiled."""
        device = run.parallel.model.embedding.weight.device
        return compiles(self._recipe.compiling, device, self._steps * flops)

    def _say_why_not(self) -> None:
        """Say in a line why no trunk is shared, where there are trunks of this stage."""
        if there := self._candidates():
            self._say(f"shares no trunk: {self._parting(there[0])}")
        elif roots := self._store.roots(self._stage):
            here = self._decided
            differing = [sorted(n for n in {*here, *root} if here.get(n) != root.get(n)) for root in roots]
            self._say(f"shares no trunk: the nearest differs in {', '.join(min(differing, key=len)[:4])}")

    def _parting(self, path: Path) -> str:
        """The first step in which this run differs from that of the trunk, and how."""
        try:
            _, record = _parted(read(path)[1])
        except (OSError, ValueError) as error:
            return f"{path}: {error}"
        seen = record["seen"].numpy().tobytes().hex()
        for step, (rate, share) in enumerate(zip(record["rate"].tolist(), record["share"].tolist(), strict=True)):
            if step == self._steps:
                break
            self._chain[step + 1]
            link = self._chain.links[step]
            if link.rate != rate:
                return f"step {step} has {link.rate:.4g} of the full learning rate, and {rate:.4g} in {path}"
            if link.share != share:
                return (
                    f"the weights after step {step} count for {link.share:.4g} of their average, {share:.4g} in {path}"
                )
            if link.seen != seen[64 * step : 64 * step + 64]:
                return f"the data of step {step} are not those of {path}"
        return f"none of those kept has fewer than {self._steps} steps"

    def _say(self, text: str) -> None:
        print(f"{self._stage}: {text}", flush=True)


def _parted(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(state of the run, what else a trunk holds) by their names."""
    return {name: t for name, t in tensors.items() if not name.startswith(RECORD)}, _under(RECORD, tensors)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

"""Texts written while others begin and end: a prompt joins the rows of a running batch between two steps.

lm/sampler.py has all prompts before it starts; here each comes when it comes, with a temperature and a seed of its own, and its
tokens are handed on one by one. Letters as in lm/decoding.py.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.pick import pick
from lm.decoding import Rows
from lm.model import Decoder
from lm.sampler import CAPTURE, capacity_of, whole_pieces
from lm.strategies.filters import filtered


@dataclass(frozen=True)
class Token:
    """A token that was written. logp, and likeliest, which has pairs of an id and its log-probability (nats), are the model's
    own, whatever the temperature; None and [] where they were not asked for. last: nothing follows."""

    id: int
    last: bool
    logp: float | None = None
    likeliest: list[tuple[int, float]] = field(default_factory=list)


@dataclass(eq=False)
class SamplingRequest:
    """A text to write behind a prompt of 1 token or more: at most `max_new_tokens` tokens, of which one of `stops` is the
    last.

    Its draws are of the seed, from 0 to 2^63 - 1, and the number: what `lm.sampler.generate` draws with that seed for the
    prompt of that place.
    temperature: 0 takes the likeliest token. top_p, min_p: as of `lm/strategies/filters.py`; 1 and 0 forbid nothing.
    likeliest: how many of the likeliest tokens are told beside each that is written, None: not even how likely that one was.
    on_token: called by the thread that writes, with each token or with what went wrong, which is then the last.
    cancelled: set by who wants no more of it.
    """

    prompt: list[int]
    max_new_tokens: int
    temperature: float
    seed: int
    number: int
    stops: frozenset[int]
    on_token: Callable[[Token | Exception], None]
    likeliest: int | None = None
    cancelled: bool = False
    top_p: float = 1.0
    min_p: float = 0.0

    def points(self) -> np.ndarray:
        """The draws of the text, fp64 in [0, 1), one a token."""
        return np.random.Generator(np.random.Philox(key=[self.seed, self.number])).random(self.max_new_tokens)


class SamplingRows(Rows):
    """Rows each of which has a temperature and filters of its own."""

    def draw(self, running: dict[int, SamplingRequest], points_R: Tensor) -> list[int]:
        """ids_R of every row's next token, of that of each row in which something is written."""
        device = self._ids_R.device
        ids_R = self._ids_R
        temperatures = [running[row].temperature if row in running else None for row in range(len(points_R))]
        if any(temperatures):
            divisors = torch.tensor([one or 1.0 for one in temperatures], device=device)
            tempered_RV = self._logits_RV.float() / divisors[:, None]
            for row, one in running.items():  # each by itself, so that no row depends on another
                if one.temperature and (one.top_p < 1 or one.min_p > 0):
                    tempered_RV[row] = filtered(tempered_RV[row : row + 1], 1.0, one.top_p, one.min_p)[0]
            ids_R, _ = pick(tempered_RV, 1.0, points_R)
        if 0.0 in temperatures:
            likeliest_R, _ = pick(self._logits_RV, 0.0, points_R)
            ids_R = torch.where(torch.tensor([not one for one in temperatures], device=device), likeliest_R, ids_R)
        self._ids_R.copy_(ids_R)
        return ids_R.tolist()

    def logps(self, row: int) -> Tensor:
        """logps_V of what may stand in the place of the row's next token."""
        return self._logits_RV[row].float().log_softmax(-1)


class RunningBatch:
    """R rows of one capacity; `running` has by row what is written there."""

    def __init__(self, model: Decoder, rows: int, capacity: int) -> None:
        weight = model.embedding.weight
        self._rows = SamplingRows(model, rows, capacity, 1, CAPTURE["cuda" if weight.is_cuda else "cpu"])
        self._device, self._capacity, self._count = weight.device, capacity, rows
        self._points_RN = np.zeros((rows, capacity))
        self._done_R = np.zeros(rows, np.int64)  # tokens written in each row
        self.running: dict[int, SamplingRequest] = {}

    def idle_rows(self) -> list[int]:
        """Rows in which nothing is written."""
        return [row for row in range(self._count) if row not in self.running]

    def admit(self, wanted: list[SamplingRequest]) -> None:
        """Read the prompt that these share, and begin each of them in an idle row, of which there are enough."""
        prompt, rows = wanted[0].prompt, self.idle_rows()[: len(wanted)]
        # one prompt at a time, so that the forward has a shape of its own length alone
        self._rows.read([prompt], whole_pieces(len(prompt), self._capacity), rows, [0] * len(rows))
        for row, one in zip(rows, wanted, strict=True):
            self.running[row] = one
            self._points_RN[row, : one.max_new_tokens], self._done_R[row] = one.points(), 0

    def step(self) -> None:
        """One token more in every running row; those that end with it are then idle."""
        for row in [row for row, one in self.running.items() if one.cancelled]:
            del self.running[row]
        if not self.running:
            return
        points_R = torch.from_numpy(self._points_RN[np.arange(self._count), self._done_R]).to(self._device)
        ids_R = self._rows.draw(self.running, points_R)
        self._done_R[list(self.running)] += 1
        for row, one in list(self.running.items()):
            last = ids_R[row] in one.stops or self._done_R[row] == one.max_new_tokens
            if last:
                del self.running[row]
            one.on_token(self._token(row, ids_R[row], last, one.likeliest))
        if self.running:
            self._rows.cache.lengths_B[self.idle_rows()] = 0  # they compute on, over as little as may be
            self._rows.advance()

    def _token(self, row: int, index: int, last: bool, likeliest: int | None) -> Token:
        if likeliest is None:
            return Token(index, last)
        logps_V = self._rows.logps(row)
        values, ids = logps_V.topk(min(likeliest, len(logps_V)))
        return Token(index, last, logps_V[index].item(), list(zip(ids.tolist(), values.tolist(), strict=True)))


class ContinuousBatcher:
    """A thread that writes what is wanted, in R rows of each capacity in use.

    A text depends on its own prompt, temperature, seed and number, and on R; never on what is written beside it. On a CPU that
    holds to the last bit: every forward has R rows, or one prompt, of a length and a capacity that are the text's own; of a
    model with experts it holds to rounding, since a product has as many rows as tokens chose the expert.
    """

    def __init__(self, model: Decoder, rows: int, context: int) -> None:
        """context: tokens of a prompt and its text together at most, not above the model's."""
        self.context = context
        self._model, self._rows = model, rows
        self._batches: dict[int, RunningBatch] = {}
        self._waiting: deque[list[SamplingRequest]] = deque()
        self._works: deque[tuple[Callable[[Decoder], Any], Future[Any]]] = deque()
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def write(self, wanted: list[SamplingRequest]) -> None:
        """Have these written, all of one prompt; those that came before begin before them. Raises ValueError for a prompt that
        is empty or leaves no room in the context, and for more than the room that it leaves."""
        for one in wanted:
            if not one.prompt or not 1 <= one.max_new_tokens <= self.context - len(one.prompt):
                raise ValueError(
                    f"{len(one.prompt)} tokens and {one.max_new_tokens} more do not fit a context of {self.context}"
                )
        with self._changed:
            self._waiting.append(list(wanted))
            self._changed.notify()

    def do(self, work: Callable[[Decoder], Any]) -> Future[Any]:
        """What a function makes of the model, between two steps: all that is written waits for it, since a GPU that records a
        step must be given nothing else. One that is cancelled before its turn is not called."""
        done: Future[Any] = Future()
        with self._changed:
            self._works.append((work, done))
            self._changed.notify()
        return done

    def close(self) -> None:
        """End the thread after the step that it is in; what was not finished is told nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        for _, done in self._works:
            done.cancel()

    @torch.inference_mode()
    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting or self._works or self._running())
                if self._closed:
                    return
                work, done = self._works.popleft() if self._works else (None, None)
            if work is not None and done is not None and done.set_running_or_notify_cancel():
                try:
                    done.set_result(work(self._model))
                except Exception as error:
                    done.set_exception(error)
            try:
                self._admit()
                for batch in self._batches.values():
                    batch.step()
            except Exception as error:  # such as a GPU without memory for it: who waits is told, and others may come
                self._fail(error)

    def _running(self) -> list[SamplingRequest]:
        return [one for batch in self._batches.values() for one in batch.running.values()]

    def _admit(self) -> None:
        """Begin what waits, as far as there are rows of its capacity; of those of one capacity, the first comes first."""
        with self._changed:
            waiting = list(self._waiting)
        full: set[int] = set()
        for group in waiting:
            group[:] = [one for one in group if not one.cancelled]
            if group:
                first = group[0]
                capacity = capacity_of(len(first.prompt), first.max_new_tokens, self.context, gpu=False)
                if capacity not in self._batches:
                    self._batches[capacity] = RunningBatch(self._model, self._rows, capacity)
                batch = self._batches[capacity]
                now = [] if capacity in full else group[: len(batch.idle_rows())]
                if now:
                    batch.admit(now)
                    del group[: len(now)]
                if group:
                    full.add(capacity)
        with self._changed:
            self._waiting = deque(group for group in self._waiting if group)

    def _fail(self, error: Exception) -> None:
        with self._changed:
            told = [*self._running(), *(one for group in self._waiting for one in group)]
            self._waiting.clear()
            self._batches.clear()
        for one in told:
            one.on_token(error)

"""Batches that are made while the device is busy with the step before."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch

from lm.training.batch import Batch
from lm.transfer import Tensors, pin_memory, to_device


class Prefetcher:
    """batch_at of a stage whose data do not depend on the model, for lm.training.loop.train. To be used in a `with`.

    fetch(step): the data of a step, in host memory. It follows from the step alone, and must read no model and keep nothing: on
    a GPU another thread calls it, a step early. None stands for a tensor that the step has not.
    batch(step, host, here): the Batch of the step; the same data in host memory, and on the device. The loop's thread calls it,
    in the step itself, so it may use the model and say things.

    What fetch raises is raised in the step that it was for. On a CPU nothing is fetched early: the step has its cores, and the
    other thread would take one of them from it. ahead: decides that otherwise.
    """

    def __init__(
        self,
        fetch: Callable[[int], Tensors],
        batch: Callable[[int, Tensors, Tensors], Batch],
        steps: int,
        device: torch.device,
        ahead: bool | None = None,
    ) -> None:
        self._fetch, self._batch, self._steps, self._device = fetch, batch, steps, device
        self._early = device.type == "cuda" if ahead is None else ahead
        self._thread = ThreadPoolExecutor(1, "batches", self._begin)
        self._next: tuple[int, Future[Tensors]] | None = None

    def __call__(self, step: int) -> Batch:
        waiting, self._next = self._next, None
        host = waiting[1].result() if waiting and waiting[0] == step else self._fetched(step)
        if self._early and step + 1 < self._steps:
            self._next = step + 1, self._thread.submit(self._fetched, step + 1)
        return self._batch(step, host, to_device(host, self._device))

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _fetched(self, step: int) -> Tensors:
        return pin_memory(self._fetch(step), self._device)

    def _begin(self) -> None:
        """A thread begins on the first GPU, wherever the one that made it is."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)

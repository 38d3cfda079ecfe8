"""What a training step saw and began with, in a few bytes: so that two runs can be compared step by step afterwards.

The weights are hashed as they are before a step, for then a difference is in them before it is in anything that follows.
"""

from collections.abc import Iterable
from math import ceil
from typing import Any

import torch
import xxhash
from torch import Tensor

from lm.distributed import rank
from lm.training.checkpoint.snapshot import Entry, Snapshot, on_gpu, within
from lm.training.parallel.base import Parallel

# Of weights hashed a step in the mean: 16 MiB take 2 ms. Larger models are hashed every few steps, at the same cost a step.
BYTES_A_STEP = 2**24
# Hexadecimal digits of a batch's digest, and of a tensor's: it is written once a step for each tensor, and what slips past 32
# bits in one step does not in the next.
BATCH_DIGITS, TENSOR_DIGITS = 16, 8


def steps_apart(weights: dict[str, Tensor]) -> int:
    """Steps from one digest of the weights to the next. It follows from the model alone, so that all runs of it agree."""
    return max(1, ceil(sum(weight.nbytes for weight in weights.values()) / BYTES_A_STEP))


def tensor_digest(tensor: Tensor) -> str:
    """xxh3 of the bytes, which are in host memory; equal bits give equal digests, 0.0 and -0.0 do not."""
    return bytes_digest([_bytes(tensor)])


def bytes_digest(parts: Iterable[memoryview]) -> str:
    """Digest of a tensor whose bytes are in these parts."""
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:TENSOR_DIGITS]


def batch_digest(tensors: Iterable[Tensor]) -> str:
    """xxh3 of types, shapes and bytes, in this order. Raises TypeError for a tensor that is not in host memory: reading it
    back would be a wait for the device."""
    digest = xxhash.xxh3_64()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


class Digests:
    """Digests of the steps of a run. batch: of what a step learns from. weights, every few steps: of all weights before the
    step, one after the other, in the order of `names`, which step 0 has.

    Weights on a GPU are copied as the step begins, in the order of its work, and hashed once the host has waited for something
    that was queued later; so the copy costs no wait, but host memory of the weights' size.
    """

    def __init__(self, parallel: Parallel) -> None:
        self._parallel, self._apart = parallel, steps_apart(parallel.shapes)
        self._found: dict[str, Any] = {}
        self._copies = Snapshot()
        self._copied: tuple[list[Entry], list[memoryview]] | None = None

    def begin(self, step: int, content: Iterable[Tensor]) -> None:
        """The step begins, and learns from what is in `content`, which is in host memory. Every rank must call."""
        weights = self._parallel.weights() if step % self._apart == 0 else {}
        self._found, self._copied = {}, None
        if rank():
            return
        self._found["batch"] = batch_digest(content)
        if step == 0:
            self._found["names"] = list(weights)
        if on_gpu(weights.values()):
            entries, data = self._copies.begin(weights)
            self._copied = [entries[name] for name in weights], data
        elif weights:
            self._found["weights"] = "".join(map(tensor_digest, weights.values()))

    def logged(self) -> dict[str, Any]:
        """Digests of the step that has begun, after the host has waited for its gradients, and before the next begins. Empty on
        other ranks than the first."""
        if self._copied:
            entries, data = self._copied
            self._found["weights"] = "".join(bytes_digest(within(entry, data)) for entry in entries)
        return self._found


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data

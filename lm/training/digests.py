"""What a training step saw and began with, in a few bytes: so that two runs can be compared step by step afterwards.

The weights are hashed as they are before a step, for then a difference is in them before it is in anything that follows.
"""

from collections.abc import Iterable
from math import ceil
from typing import Any

import torch
import xxhash
from torch import Tensor

from lm.exchange import rank
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
    """xxh3 of the bytes; equal bits give equal digests, 0.0 and -0.0 do not."""
    return f"{xxhash.xxh3_64_intdigest(_bytes(tensor)):016x}"[:TENSOR_DIGITS]


def batch_digest(tensors: Iterable[Tensor]) -> str:
    """xxh3 of types, shapes and bytes, in this order."""
    digest = xxhash.xxh3_64()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def step_digests(step: int, apart: int, parallel: Parallel, content: Iterable[Tensor]) -> dict[str, Any]:
    """batch: the digest of what the step learns from. weights, every `apart` steps: those of all weights before the step, one
    after the other, in the order of `names`, which step 0 has. Every rank must call; rank 0 alone gets an answer.
    """
    weights = parallel.weights() if step % apart == 0 else {}
    if rank():
        return {}
    found: dict[str, Any] = {"batch": batch_digest(content)}
    if step == 0:
        found["names"] = list(weights)
    if weights:
        found["weights"] = "".join(map(tensor_digest, weights.values()))
    return found


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data

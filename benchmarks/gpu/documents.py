"""Attention within documents, bf16: ours, whole rows, and torch's own of variable length, with and without determinism."""

import math
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.check import Check
from benchmarks.gpu.measure import distance, milliseconds
from kernels.attention import attention
from kernels.attention.documents import documents_of

# B rows of T tokens, H heads of width E: the heads of a GPT-2, and those of the presets
SHAPES = ((32, 2048, 12, 64), (16, 2048, 16, 128))
TINY = ((2, 64, 2, 64), (2, 64, 1, 128))
MEAN_LENGTH = 500.0

Arms = dict[str, tuple[Callable[[], Tensor], float]]  # and the sum of the squares of the lengths that are seen


def documents(check: Check) -> None:
    """Time of forward and backward; FLOP of the visible half of each document, 4 E a pair forward, 2.5 times that backward."""
    for B, T, H, E in TINY if check.tiny else SHAPES:
        generator = torch.Generator().manual_seed(0)
        *inputs, grad = (
            torch.randn(B, T, H, E, generator=generator).to(check.device, torch.bfloat16) for _ in range(4)
        )
        q, k, v = (tensor.requires_grad_() for tensor in inputs)
        bounds = bounds_of(B, T, generator)
        every = arms(q, k, v, bounds)
        wanted = every["ours, documents"][0]().detach()
        for deterministic in (True, False):
            torch.use_deterministic_algorithms(deterministic)
            for name, (call, squares) in every.items():
                label = f"{name}, {E} wide" + (", deterministic" if deterministic else "")
                try:
                    result = call()
                    forward = milliseconds(call, check.device)
                    backward = milliseconds(partial(gradients, result, (q, k, v), grad), check.device)
                except (RuntimeError, TypeError) as error:  # not every one is deterministic
                    check.say(f"{label}: time", f"{type(error).__name__}: {str(error)[:160]}")
                    continue
                work = 2 * squares * H * E
                check.say(f"{label}: time", forward + backward, "ms")
                check.say(f"{label}: forward", work / forward / 1e9, "TFLOP/s")
                check.say(f"{label}: backward", 2.5 * work / backward / 1e9, "TFLOP/s")
                if "varlen" in name:
                    check.say(f"{label}: off from ours by", distance(result.detach(), wanted))
    torch.use_deterministic_algorithms(False)


def gradients(result: Tensor, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(result, inputs, grad, retain_graph=True)


def bounds_of(B: int, T: int, generator: torch.Generator) -> Tensor:
    """Bounds of documents of lognormal length, cut where rows end."""
    ends = torch.exp(torch.randn(B * T, generator=generator) + math.log(MEAN_LENGTH) - 0.5).ceil().long().cumsum(0)
    return torch.cat((ends[ends < B * T], torch.arange(0, B * T + 1, T))).unique()


def arms(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor) -> Arms:
    """torch's of variable length is there on a GPU alone, and not in every torch."""
    B, T = q.shape[:2]
    ours, whole = (documents_of(cuts, B, T, q.device) for cuts in (bounds, torch.arange(0, B * T + 1, T)))
    inside = float(sum((end - start) ** 2 for start, end in pairwise(bounds.tolist())))
    every: Arms = {
        "ours, documents": (lambda: attention(q, k, v, ours), inside),
        "ours, whole rows as documents": (lambda: attention(q, k, v, whole), B * T * T),
        "whole rows": (lambda: attention(q, k, v, None), B * T * T),
    }
    if q.is_cuda and find_spec("torch.nn.attention.varlen"):
        from torch.nn.attention.varlen import varlen_attn

        offsets, longest = bounds.to(q.device, torch.int32), int(bounds.diff().max())

        def varlen() -> Tensor:
            query, key, value = (tensor.flatten(0, 1) for tensor in (q, k, v))
            mixed: Any = varlen_attn(query, key, value, offsets, offsets, longest, longest, window_size=(-1, 0))
            return mixed.view_as(q)

        every["torch varlen_attn"] = (varlen, inside)
    return every

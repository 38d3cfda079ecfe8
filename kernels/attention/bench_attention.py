"""`python -m kernels.attention.bench_attention`: attention within documents beside whole rows and beside a dense mask.

Forward and backward of 8192 tokens with documents of lognormal length, mean 250 tokens before rows cut them.
"""

import importlib.util
import math
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import attention
from kernels.attention.cpu import repeated
from kernels.attention.reference import same_document
from kernels.bench_rounds import Arms, report

TOKENS, HEADS, KV_HEADS, HEAD_WIDTH = 8192, 8, 2, 64
MEAN_LENGTH, SIGMA = 250, 1.0


def setup(length: int, device: torch.device) -> tuple[list[Tensor], Tensor, Tensor]:
    """([q, k, v], grad, bounds) for rows of `length` tokens: fp32 on the CPU, bf16 on a GPU."""
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shapes = [(TOKENS // length, length, heads, HEAD_WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)]
    *inputs, grad = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    normal = torch.randn(TOKENS, generator=generator) * SIGMA + math.log(MEAN_LENGTH) - SIGMA**2 / 2
    ends = normal.exp().ceil().long().cumsum(0)
    bounds = torch.cat((ends[ends < TOKENS], torch.arange(0, TOKENS + 1, length))).unique()
    return [x.requires_grad_() for x in inputs], grad, bounds


def arms(inputs: list[Tensor], bounds: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The mixed values, an arm each; of whole rows they are another thing, shown for their cost."""
    q, k, v = inputs
    rows, length = q.shape[:2]
    visible = same_document(rows, length, bounds).tril()[:, None].to(q.device)

    def dense() -> Tensor:
        query, key, value = (x.transpose(1, 2) for x in (q, repeated(k, HEADS), repeated(v, HEADS)))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=visible).transpose(1, 2)

    every: Arms = {
        "documents": lambda: attention(q, k, v, bounds),
        "whole rows": lambda: attention(q, k, v, None),
        "dense mask": dense,
    }
    if q.is_cuda and importlib.util.find_spec("torch.nn.attention.varlen"):
        from torch.nn.attention import varlen

        offsets, longest = bounds.to(q.device, torch.int32), int(bounds.diff().max())
        grouped = "enable_gqa" in signature(varlen.varlen_attn).parameters  # torch 2.11's wants as many heads of keys
        options: dict[str, Any] = {"window_size": (-1, 0)} | ({"enable_gqa": True} if grouped else {})

        def theirs() -> Any:
            keys = (k, v) if grouped else (repeated(k, HEADS).contiguous(), repeated(v, HEADS).contiguous())
            query, key, value = (x.flatten(0, 1) for x in (q, *keys))
            return varlen.varlen_attn(query, key, value, offsets, offsets, longest, longest, **options)

        every["varlen_attn"] = lambda: theirs().view_as(q)
    return every


def main(rounds: int = 20) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for length in (512, 1024, 2048):
        inputs, grad, bounds = setup(length, device)
        report(f"{len(bounds) - 1} in rows of {length}", arms(inputs, bounds), inputs, grad, rounds)


if __name__ == "__main__":
    main()

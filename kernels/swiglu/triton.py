"""SwiGLU on a GPU: one pass over memory forward and one back, which computes silu again instead of keeping it."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

# Entries of a program: 8 a thread of 4 warps, which is 16 bytes of bf16.
BLOCK = 1024


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """What the reference gives, in fp32 inside; backward keeps gate and up alone."""
    return _SwiGLU.apply(gate, up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        y = torch.empty_like(gate)
        _swiglu_forward[(-(-gate.numel() // BLOCK),)](gate, up, y, gate.numel(), BLOCK=BLOCK)
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        _swiglu_backward[(-(-gate.numel() // BLOCK),)](dy.contiguous(), gate, up, dgate, dup, gate.numel(), BLOCK=BLOCK)
        return dgate, dup


@triton.jit
def _swiglu_forward(gate_N, up_N, y_N, N, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_N + place, mask=place < N).to(tl.float32)
    up = tl.load(up_N + place, mask=place < N).to(tl.float32)
    tl.store(y_N + place, gate * tl.sigmoid(gate) * up, mask=place < N)


@triton.jit
def _swiglu_backward(dy_N, gate_N, up_N, dgate_N, dup_N, N, BLOCK: tl.constexpr):
    """d silu(a) / da = sigmoid(a) (1 + a (1 - sigmoid(a)))."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    dy = tl.load(dy_N + place, mask=place < N).to(tl.float32)
    gate = tl.load(gate_N + place, mask=place < N).to(tl.float32)
    up = tl.load(up_N + place, mask=place < N).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    tl.store(dgate_N + place, dy * up * sigmoid * (1 + gate * (1 - sigmoid)), mask=place < N)
    tl.store(dup_N + place, dy * gate * sigmoid, mask=place < N)

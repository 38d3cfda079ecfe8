"""The pointwise kernels by themselves: the bytes that must move over the time, beside torch.compile of the formula."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch._functorch import config as functorch

from benchmarks.gpu.check import Check
from benchmarks.gpu.measure import milliseconds
from kernels.rms_norm import reference as plain_norm
from kernels.rms_norm import rms_norm
from kernels.rope import reference as plain_rope
from kernels.rope import rotate
from kernels.swiglu import reference as plain_swiglu
from kernels.swiglu import swiglu

EPS = 1e-6
BF16, FP32 = torch.bfloat16, torch.float32
Operator = Callable[..., Tensor]


def kernel_speed(check: Check) -> None:
    """Shapes of a micro-batch of gpu-124m: 65,536 tokens."""
    tokens = 128 if check.tiny else 65536
    norms = {
        "768 wide fp32": (768, tokens, FP32),
        "768 wide bf16": (768, tokens, BF16),
        "heads of 128": (128, 6 * tokens, BF16),
    }
    for label, (width, rows, dtype) in norms.items():
        x = torch.randn(rows, width, device=check.device).to(dtype).requires_grad_()
        weight = torch.ones(width, device=check.device, requires_grad=True)
        # forward reads x and writes y; backward reads x and dy and writes dx
        pair(check, f"rms_norm, {label}", norm, formula_norm, (x, weight), (), 2 * x.nbytes, 3 * x.nbytes)
    gate, up = (torch.randn(tokens, 2048, device=check.device).to(BF16).requires_grad_() for _ in range(2))
    pair(check, "swiglu", swiglu, plain_swiglu.swiglu, (gate, up), (), 3 * gate.nbytes, 5 * gate.nbytes)
    B, T = (2, 64) if check.tiny else (64, 1024)
    x_BHTE = torch.randn(B, T, 6, 128, device=check.device).to(BF16).transpose(1, 2).requires_grad_()
    angles = torch.randn(T, 64, device=check.device)
    turns = (angles.cos(), angles.sin())
    pair(check, "rope", rotate, plain_rope.rotate, (x_BHTE,), turns, 2 * x_BHTE.nbytes, 2 * x_BHTE.nbytes)


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return rms_norm(x, weight, EPS)


def formula_norm(x: Tensor, weight: Tensor) -> Tensor:
    return plain_norm.rms_norm(x, weight, EPS)


def pair(
    check: Check,
    name: str,
    ours: Operator,
    formula: Operator,
    learned: tuple[Tensor, ...],
    given: tuple[Tensor, ...],
    forward: int,
    backward: int,
) -> None:
    """GB/s of both for so many bytes, in each direction; `learned` are the inputs that get a gradient."""
    functorch.donated_buffer = False  # else what is compiled refuses a second backward
    for label, operator in (("ours", ours), ("formula compiled", formula if check.tiny else torch.compile(formula))):
        result = operator(*learned, *given)
        grad = torch.randn_like(result)
        with torch.no_grad():
            time_ms = milliseconds(partial(operator, *learned, *given), check.device)
        check.say(f"{name} forward, {label}", forward / time_ms / 1e6, "GB/s", ms=time_ms)
        time_ms = milliseconds(partial(torch.autograd.grad, result, learned, grad, retain_graph=True), check.device)
        check.say(f"{name} backward, {label}", backward / time_ms / 1e6, "GB/s", ms=time_ms)

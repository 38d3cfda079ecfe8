"""The loss head at 8192 tokens, width 4096 and vocabulary 131,072, bf16: time, memory and how far the gradient is off."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.check import Check
from benchmarks.gpu.measure import distance, milliseconds, peak_above
from benchmarks.loss_head import ours, plain

SOFTCAP = 30.0
CHECKED = 512  # tokens whose gradient is compared with that of the formula in fp32
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def head(check: Check) -> None:
    """Ours with and without a soft-cap, the formula, compiled, and torch's own operator where it has one."""
    T, D, V = (600, 32, 128) if check.tiny else (8192, 4096, 131072)
    generator = torch.Generator(check.device).manual_seed(0)
    x_TD = torch.randn(T, D, device=check.device, generator=generator).bfloat16().requires_grad_()
    weight_VD = torch.randn(V, D, device=check.device, generator=generator) * (
        3 / D**0.5
    )  # logits of standard deviation 3
    weight_VD = weight_VD.bfloat16().requires_grad_()
    targets_T = torch.randint(V, (T,), device=check.device, generator=generator)
    for name, softcap, loss in arms(check.tiny):
        call = partial(gradients, loss, x_TD, weight_VD, targets_T)
        kept = (x_TD.nbytes + weight_VD.nbytes) / 1e9  # the gradients, which whoever asks gets
        try:
            error = distance(call()[0][:CHECKED], exact(x_TD, weight_VD, targets_T, softcap))
            time_ms = milliseconds(call, check.device, 5, 2)
            peak = peak_above(call, check.device)
        except torch.cuda.OutOfMemoryError:
            check.say(f"{name}: time", "out of memory")
            continue
        check.say(f"{name}: time", time_ms, "ms", tflops=6 * T * D * V / time_ms / 1e9)
        check.say(f"{name}: extra memory", None if peak is None else peak - kept, "GB")
        check.say(f"{name}: gradient of the tokens off by", error)
        if check.on_gpu:
            torch.cuda.empty_cache()


def arms(tiny: bool) -> list[tuple[str, float, Loss]]:
    """(name, soft-cap, loss)."""

    def compiled(loss: Loss) -> Loss:
        return loss if tiny else torch.compile(loss)

    found: list[tuple[str, float, Loss]] = [
        ("ours", 0.0, ours(0.0)),
        ("ours, softcap", SOFTCAP, ours(SOFTCAP)),
        ("formula compiled", 0.0, compiled(plain(0.0))),
        ("formula compiled, softcap", SOFTCAP, compiled(plain(SOFTCAP))),
    ]
    if hasattr(F, "linear_cross_entropy"):  # torch 2.11 has none
        found.append(("torch linear_cross_entropy", 0.0, F.linear_cross_entropy))
    return found


def gradients(loss: Loss, x_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(x_TD, weight_VD, targets_T), (x_TD, weight_VD))


def exact(x_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, softcap: float) -> Tensor:
    """The gradient of the first CHECKED tokens in the mean loss of all, by the formula in fp32."""
    some = x_TD.detach()[:CHECKED].float().requires_grad_()
    share = len(some) / len(x_TD)
    loss = share * plain(softcap)(some, weight_VD.detach().float(), targets_T[:CHECKED])
    return torch.autograd.grad(loss, some)[0]

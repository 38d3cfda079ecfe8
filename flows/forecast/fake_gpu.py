"""What a GPU's kernels would allocate, asked of fake tensors on a machine without one."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

import kernels

# autocast computes these in fp32 on a GPU, and in bf16 on a CPU
WIDE = {torch.nn.functional.cross_entropy, torch.nn.functional.log_softmax, Tensor.log_softmax}
# Told of every kernel that would be launched: its name as folder.function, and its arguments by position
Launched = Callable[[str, tuple[Any, ...]], None]


class Unlaunched:
    """Stand-in for a Triton kernel: what it would write is there already, since nobody reads it."""

    def __init__(self, name: str, launched: Launched) -> None:
        self._name, self._launched = name, launched

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **kwargs: self._launched(self._name, args)


class FusedAttention(torch.autograd.Function):
    """torch's fused attention on a GPU, which reads grouped heads as they are: keeps inputs, output and a number a row."""

    @staticmethod
    def forward(ctx: Any, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, launched: Launched) -> Tensor:
        mixed_BHTE = torch.empty_like(q_BHTE)
        launched("attention.forward", (q_BHTE, k_BKTE, v_BKTE))
        ctx.launched = launched
        ctx.save_for_backward(
            q_BHTE, k_BKTE, v_BKTE, mixed_BHTE, q_BHTE.new_empty(q_BHTE.shape[:3], dtype=torch.float32)
        )
        return mixed_BHTE

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors[:3]  # once: what activation recomputation gives, it gives once
        ctx.launched("attention.backward", inputs)
        return *(torch.empty_like(x) for x in inputs), None


@contextmanager
def on_gpu(launched: Launched = lambda name, arguments: None) -> Iterator[None]:
    """Context in which every fake tensor says that it is on a GPU, so that kernels take the path of one, and none is launched.

    The tensors stay fake ones of the CPU: a torch without CUDA has no fake ones of a GPU that autograd takes. Attributes are
    replaced, since a function mode is not in force where a backward recomputes activations. Raises ValueError when the package
    triton is missing.
    """
    try:
        from triton.runtime.jit import KernelInterface
    except ImportError:
        raise ValueError("the package triton is missing: a GPU's memory is counted along its kernels") from None
    folders = sorted(path.parent.name for path in Path(kernels.__file__).parent.glob("*/triton.py"))
    modules = {name: importlib.import_module(f"kernels.{name}.triton") for name in folders}
    places: list[tuple[Any, str, Any]] = [
        (module, name, Unlaunched(f"{folder}.{name}", launched))
        for folder, module in modules.items()
        for name, kernel in vars(module).items()
        if isinstance(kernel, KernelInterface)
    ]
    attention, addmm = F.scaled_dot_product_attention, torch.addmm

    def fused(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Tensor:
        return FusedAttention.apply(q, k, v, launched) if how.get("is_causal") else attention(q, k, v, **how)

    def added(total: Tensor, left: Tensor, right: Tensor, **how: Any) -> Tensor:
        # an out_dtype is more than the fake tensors of torch 2.11 know; in place, two dtypes are nothing to them
        return total.addmm_(left, right) if how.get("out") is total else addmm(total, left, right, **how)

    places += [
        (F, "scaled_dot_product_attention", fused),
        (torch, "addmm", added),
        (FakeTensor, "is_cuda", property(lambda tensor: True)),
    ]
    before = [getattr(place, name) for place, name, _ in places[:-1]]
    try:
        for place, name, stand_in in places:
            setattr(place, name, stand_in)
        with Widened():
            yield
    finally:
        for (place, name, _), original in zip(places[:-1], before, strict=True):
            setattr(place, name, original)
        del FakeTensor.is_cuda  # inherited from Tensor


class Widened(TorchFunctionMode):
    """What autocast computes in fp32 on a GPU and in bf16 on a CPU, in fp32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WIDE and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))

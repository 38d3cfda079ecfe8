"""What a GPU's kernels would allocate, asked of fake tensors on a machine without one."""

import importlib
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# autocast computes these in fp32 on a GPU, and in bf16 on a CPU
WIDE = {torch.nn.functional.cross_entropy, torch.nn.functional.log_softmax, Tensor.log_softmax}
IS_CUDA = Tensor.is_cuda.__get__  # type: ignore[attr-defined]
KERNELS = ("attention", "linear_cross_entropy", "rms_norm", "rope", "swiglu")


class Unlaunched:
    """In the place of a Triton kernel: what it would write is there already, since nobody reads it."""

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **kwargs: None


class FusedAttention(torch.autograd.Function):
    """torch's fused attention on a GPU, which reads grouped heads as they are: keeps inputs, output and a number a row."""

    @staticmethod
    def forward(ctx: Any, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor) -> Tensor:
        mixed_BHTE = torch.empty_like(q_BHTE)
        ctx.save_for_backward(
            q_BHTE, k_BKTE, v_BKTE, mixed_BHTE, q_BHTE.new_empty(q_BHTE.shape[:3], dtype=torch.float32)
        )
        return mixed_BHTE

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


class AsOnGpu(TorchFunctionMode):
    """Until it ends, every tensor says that it is on a GPU, so that kernels take the path of one, without being launched.

    The tensors stay fake ones of the CPU: a torch without CUDA has no fake ones of a GPU that autograd takes. Raises ValueError
    when the package triton is missing.
    """

    def __enter__(self) -> Any:
        try:
            from triton.runtime.jit import KernelInterface
        except ImportError:
            raise ValueError("the package triton is missing: a GPU's memory is counted along its kernels") from None
        self._replaced = []
        for name in KERNELS:
            module = importlib.import_module(f"kernels.{name}.triton")
            for kernel, value in list(vars(module).items()):
                if isinstance(value, KernelInterface):
                    self._replaced.append((module, kernel, value))
                    setattr(module, kernel, Unlaunched())
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for module, kernel, value in self._replaced:
            setattr(module, kernel, value)
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == IS_CUDA:
            return True
        if func is torch.nn.functional.scaled_dot_product_attention and (kwargs or {}).get("is_causal"):
            return FusedAttention.apply(*args[:3])
        if func in WIDE and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))

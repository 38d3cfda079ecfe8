"""In what precision products are computed, and whether the model is compiled: both decided by parameters and device alone."""

import shutil
from contextlib import AbstractContextManager
from os import environ
from typing import Literal

import torch

# FLOP of a run on a CPU from which compiling is worth its time: 30 s against a tenth of the run at 1e11 FLOP/s, so 3e13. Twice,
# since a compiled run is harder to debug. On a GPU it never is: what it would fuse are kernels already. gpu-124m took 0.99 s a
# step on an H200 uncompiled and 1.00 compiled, of which 0.014 s were copies that are gone, after 16 to 44 s of compiling.
COMPILE_FLOPS = 6e13


Precision = Literal["auto", "fp32", "bf16"]


def matmul_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The type in which matrices are multiplied. auto: bf16 on a GPU that multiplies it itself: older ones emulate it, and
    slowly."""
    on_gpu = precision == "auto" and device.type == "cuda"
    wanted = precision == "bf16" or (on_gpu and torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.bfloat16 if wanted else torch.float32


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass: bf16 products of fp32 weights, or plain fp32. A CPU without bf16 emulates it, some 5 times
    slower than fp32."""
    low = matmul_dtype(precision, device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=low)


def compiles(setting: Literal["auto", "on", "off"], device: torch.device, flops: float) -> bool:
    """Whether to compile a run of so many FLOP. On a CPU it needs a C++ compiler, which `auto` looks for."""
    if setting != "auto":
        return setting == "on"
    return device.type == "cpu" and flops >= COMPILE_FLOPS and shutil.which(environ.get("CXX", "g++")) is not None

"""The gated unit of the feed-forward layer, and its gradients."""

import torch
from torch import Tensor

from kernels.swiglu import reference


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up in the shape and dtype of both; arXiv:2002.05202. Raises ValueError when they differ in either."""
    if gate.shape != up.shape or gate.dtype != up.dtype:
        raise ValueError(
            f"gate is {gate.dtype} {tuple(gate.shape)} and up is {up.dtype} {tuple(up.shape)}: give both one dtype and shape"
        )
    if gate.is_cuda and gate.dtype != torch.float64:
        from kernels.swiglu import triton

        return triton.swiglu(gate, up)
    # No cpu.py: a backward that computes silu again ran at 0.97 to 1.12 times the speed of the plain formula on 8192 x 704
    # entries and at 0.90 to 1.02 times on 4096 x 344, forward and back, fp32, one and two threads.
    return reference.swiglu(gate, up)

"""SwiGLU as written: Shazeer, arXiv:2002.05202, equation 6, between its matrix products."""

import torch.nn.functional as F
from torch import Tensor


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, silu(a) being a / (1 + exp(-a)); both tensors have one shape and dtype."""
    return F.silu(gate) * up

"""QK-norm and rotary positions as written, one after the other: arXiv:2302.05442 (section 2), arXiv:2104.09864."""

import torch
from torch import Tensor

from kernels.rms_norm import reference as norms
from kernels.rope import reference as ropes


def norm_rotate(x_BTHE: Tensor, weight_E: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """y_BHTE in the dtype of x; computed in fp32, in fp64 where x is fp64, and rounded once.

    Differs from the first paper: an RMSNorm in the place of a LayerNorm, as Qwen 3 has it (arXiv:2505.09388).
    """
    wide = torch.promote_types(x_BTHE.dtype, torch.float32)
    normed_BTHE = norms.rms_norm(x_BTHE, weight_E, eps, wide)
    return ropes.rotate(normed_BTHE.transpose(1, 2), cos, sin).to(x_BTHE.dtype)

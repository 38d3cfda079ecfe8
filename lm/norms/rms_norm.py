"""RMSNorm: a scale and no shift (Zhang & Sennrich 2019, arXiv:1910.07467)."""

from typing import Literal

import torch
from torch import Tensor, nn

from kernels.add_norm import add_norm
from kernels.rms_norm import rms_norm
from lm.config import Config
from lm.context import autocast_dtype


class StreamRMSNorm(nn.Module):
    """(x + more, the norm of that sum); without more, x and its norm."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor, more: Tensor | None = None) -> tuple[Tensor, Tensor]:
        # on a GPU in the dtype of the products that read it, which would each cast it
        dtype = autocast_dtype(x) if x.is_cuda else None
        if more is None:
            return x, rms_norm(x, self.weight, self.eps, dtype)
        return add_norm(x, more, self.weight, self.eps, dtype)


class RMSNorm(Config):
    name: Literal["rms_norm"] = "rms_norm"

    def build(self, width: int, eps: float) -> StreamRMSNorm:
        """The norm of a stream of this width."""
        return StreamRMSNorm(width, eps)

    def hugging_face_config(self) -> None:
        """What every Hugging Face family that we write has."""

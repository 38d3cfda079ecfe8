"""LayerNorm: the mean taken away, a scale and a shift (Ba et al. 2016, arXiv:1607.06450)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.config import Config


class StreamLayerNorm(nn.Module):
    """(x + more, the norm of that sum); without more, x and its norm."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width)), eps

    def forward(self, x: Tensor, more: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = x if more is None else x + more
        # torch wants one dtype, and a stream may be bf16 where the weight is fp32
        weight, bias = self.weight.to(total.dtype), self.bias.to(total.dtype)
        return total, F.layer_norm(total, weight.shape, weight, bias, self.eps)


class LayerNorm(Config):
    name: Literal["layer_norm"] = "layer_norm"

    def build(self, width: int, eps: float) -> StreamLayerNorm:
        """The norm of a stream of this width."""
        return StreamLayerNorm(width, eps)

    def hugging_face_config(self) -> None:
        """Raises ValueError: none of the families that we write has it."""
        raise ValueError("no Hugging Face family has layer_norm: export a model with norm rms_norm")

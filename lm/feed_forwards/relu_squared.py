"""Squared ReLU between two matrices: Primer's change that mattered most (So et al. 2021, arXiv:2109.08668, section 4.2)."""

from typing import Literal

import torch
from torch import Tensor, nn

from lm.parts import Part
from lm.shape import Shape


class TwoLayers(nn.Module):
    """down(relu(up(x))^2)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.up = nn.Linear(shape.width, shape.ffn_width, bias=False)
        self.down = nn.Linear(shape.ffn_width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)).square())


class ReluSquared(Part):
    """Two matrices where SwiGLU has three: as many weights at 1.5 times its ffn_width."""

    name: Literal["relu_squared"] = "relu_squared"
    into_stream = ("down",)

    def build(self, shape: Shape) -> TwoLayers:
        return TwoLayers(shape)

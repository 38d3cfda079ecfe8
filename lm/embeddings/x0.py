"""Each layer's input is mixed with the embedded tokens: a x + b x0, both learned, from 1 and 0 on, so that a model begins as
one without; modded-nanogpt's record of 2024-11-06.

Differs from the source: x0 is the stream as it begins, which has no norm here. On a GPU a block that mixes adds what waits to
the stream at once, and not in one kernel with its norm.
Letters as in lm/shape.py.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from lm.context import Context
from lm.embeddings.base import Embedding
from lm.shape import Shape


class X0Mix(nn.Module):
    """The shares of one layer, of the stream and of the embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.shares = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, Context]:
        assert context.embedded_BTD is not None
        return self.shares[0] * x_BTD + self.shares[1] * context.embedded_BTD, context


class X0(Embedding):
    name: Literal["x0"] = "x0"
    in_layers = True

    def build(self, shape: Shape) -> X0Mix:
        return X0Mix()

"""Value embeddings: a table of a layer's own, whose rows are mixed into the values of its attention, a v + b row(token), both
learned, from 1/2 on; modded-nanogpt's record of 2024-12-04, after value residual learning (Zhou et al. 2024, arXiv:2410.17897).

Differs from the source: each layer that has one has its own, as in nanochat, where the record's are shared by layers of the
first and of the last half; tables begin as the embedding does, which is 0.02 and not 1; no gate of the token's.
Letters as in lm/shape.py; X numbers of a token's values, K x E.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from lm.context import Context
from lm.embeddings.base import Embedding
from lm.shape import Shape


class Table(nn.Module):
    """Tells the layer's attention what to mix into its values."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.table = nn.Embedding(shape.vocab_size, shape.kv_heads * shape.head_dim)
        self.shares = nn.Parameter(torch.tensor([0.5, 0.5]))

    def forward(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, Context]:
        rows_BTX = self.table(context.ids_BT)
        return x_BTD, replace(context, values=(self.shares[0], self.shares[1] * rows_BTX))


class Value(Embedding):
    name: Literal["value"] = "value"
    in_layers = True
    wants_values = True

    def build(self, shape: Shape) -> Table:
        return Table(shape)

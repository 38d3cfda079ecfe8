"""An embedding of each token with the one before: a row of a table, by a hash of the two ids, times a learned share, which
begins at 0.05; modded-nanogpt's record of 2026-01-19.

Of the rows R the last is that of a token without one before; the others are counted by ((36313 id) xor (27191 before)) mod
(R - 1), and pairs share rows without knowing it. Differs from the source: it is added once, to the input, where there each
layer adds it by a share of its own (with `x0` the layers that have that meet it again); tables begin as the embedding does and
not as zeros; whole numbers of 64 bits do not wrap.
Letters as in lm/shape.py.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lm.embeddings.base import Embedding, Tokens
from lm.shape import Shape

OF_TOKEN, OF_BEFORE = 36313, 27191


def row_of(ids_BT: Tensor, before_BT: Tensor, rows: int) -> Tensor:
    """row_BT of a table with so many; before_BT is -1 where there is no token before."""
    hashed_BT = torch.bitwise_xor(OF_TOKEN * ids_BT, OF_BEFORE * before_BT) % (rows - 1)
    return hashed_BT.masked_fill(before_BT < 0, rows - 1)


class BigramEmbedding(nn.Module):
    """x and the row of each token's pair."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.table, self.share = nn.Embedding(rows, width), nn.Parameter(torch.full((1,), 0.05))

    def forward(self, x_BTD: Tensor, tokens: Tokens) -> Tensor:
        return x_BTD + self.share * self.table(row_of(tokens.ids_BT, tokens.before_BT, self.table.num_embeddings))


class Bigram(Embedding):
    name: Literal["bigram"] = "bigram"
    rows: int = Field(8192, ge=2, description="of the table; the record has five for each token of the vocabulary")

    def build(self, shape: Shape) -> BigramEmbedding:
        return BigramEmbedding(self.rows, shape.width)

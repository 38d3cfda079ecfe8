"""A gated share of the embedding before is added to each token's: smear, of modded-nanogpt's records from 2025-09 on, and of
nanochat.

x_t + s sigmoid(g x_t[:columns]) e_{t-1}, e being the embedding of the token before in the same document; s and g begin at 0.
Differs from the source: there the last token of a document reaches into the next, and the sum is normed, as the stream begins
there; noise on the embeddings, where there is any, is on x alone.
Letters as in lm/shape.py.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lm.embeddings.base import Embedding, Tokens
from lm.shape import Shape


class Gate(nn.Module):
    """Reads the first columns of a token's embedding."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.weight, self.share = nn.Parameter(torch.zeros(1, columns)), nn.Parameter(torch.zeros(1))

    def forward(self, x_BTD: Tensor, tokens: Tokens) -> Tensor:
        gate_BT1 = self.share * F.linear(x_BTD[..., : self.weight.shape[1]], self.weight).sigmoid()
        before_BTD = tokens.embedding(tokens.before_BT.clamp(min=0))
        return x_BTD + (gate_BT1 * before_BTD).masked_fill(tokens.before_BT[..., None] < 0, 0.0)


class Smear(Embedding):
    name: Literal["smear"] = "smear"
    columns: int = Field(12, gt=0, description="numbers of a token's embedding that its gate reads; at most the width")

    def build(self, shape: Shape) -> Gate:
        return Gate(min(self.columns, shape.width))

    def flops(self, shape: Shape) -> float:
        """FLOP of the gate's product."""
        return 6.0 * min(self.columns, shape.width)

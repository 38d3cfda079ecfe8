"""A layer of the model: a mixer and a feed-forward layer with a norm before either."""

from typing import Any

import torch
from torch import Tensor, nn

from lm.context import Context
from lm.parts import with_loss


class Block(nn.Module):
    """(x, waiting) -> (x, waiting, loss): the residual stream, and what the last block made, which is added to it where it is
    read next, in one kernel with a norm. None waits where there is no such kernel: the sum is then made at once. loss: the
    auxiliary one of its parts, None where they have none.

    Whatever the parts are, `attention` is the mixer and `ffn` the feed-forward layer: their names in saved weights.
    """

    def __init__(self, config: Any, index: int) -> None:
        """config: the model's ModelConfig; index: of the layer."""
        super().__init__()
        parts = config.layer(index)
        self.attention_norm = config.norm.build(config.width, config.norm_eps)
        self.attention = parts.mixer.build(config)
        self.ffn_norm = config.norm.build(config.width, config.norm_eps)
        self.ffn = parts.feed_forward.build(config)
        self.embeddings: Any = None
        if parts.embeddings:
            self.embeddings = nn.ModuleList(one.build(config) for one in parts.embeddings)
        self.depths: Any = None if parts.depths is None else parts.depths.build(config, parts.mixer)

    def forward(
        self, x: Tensor, waiting: Tensor | None, context: Context
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if self.embeddings is not None:
            if waiting is not None:
                x, waiting = x + waiting, torch.zeros_like(waiting)
            for embedding in self.embeddings:
                x, context = embedding(x, context)
        if self.depths is not None:
            x, nothing = (x, None) if waiting is None else (x + waiting, torch.zeros_like(waiting))
            x, loss = self.depths(self.residual_update, x, context)
            return x, nothing, loss
        x, _, more, loss = self.run_sublayers(x, waiting, context)
        return (x + more, None, loss) if waiting is None else (x, more, loss)

    def run_sublayers(
        self, x: Tensor, waiting: Tensor | None, context: Context
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(x with what the mixer made of it, that alone, what the feed-forward layer makes of x, the auxiliary loss)."""
        x, normed = self.attention_norm(x, waiting)
        mixed, loss = with_loss(self.attention(normed, context))
        x, normed = self.ffn_norm(x, mixed)
        more, other = with_loss(self.ffn(normed))
        loss = other if loss is None else loss if other is None else loss + other
        return x, mixed, more, loss

    def residual_update(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor | None]:
        """(what the parts add to the stream x, the auxiliary loss)."""
        _, mixed, more, loss = self.run_sublayers(x, None, context)
        return mixed + more, loss

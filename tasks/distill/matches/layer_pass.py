"""What a pass sees at one layer: the stream that enters it and the stream that leaves it, and its attention.

Letters: B rows, T time, D width, H heads, E head width; K places of the rows laid end to end.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lm.context import Context
from lm.model import Decoder


@dataclass(frozen=True)
class LayerPass:
    """A layer's pass. The stream is in two parts where the sum of both waits for the next norm."""

    block: Any
    entered_BTD: Tensor
    waiting_BTD: Tensor | None
    context: Context
    left_BTD: Tensor

    def features(self, places_K: Tensor) -> Tensor:
        """x_KD of the stream behind the layer, in fp32 at least."""
        x_KD = self.left_BTD.flatten(0, 1)[places_K]
        return x_KD.to(torch.promote_types(x_KD.dtype, torch.float32))

    def attention(self, places_K: Tensor) -> Tensor:
        """p_KT: how much each place looks at each token of its row, the mean over the layer's heads; made anew from what
        entered, since kernels of attention keep no map."""
        part, context = self.block.attention, self.context
        _, normed = self.block.attention_norm(self.entered_BTD, self.waiting_BTD)
        B, T, _ = normed.shape
        q = part.query_norm(part.query(normed).view(B, T, part.heads, -1), context.cos, context.sin)
        k = part.key_norm(part.key(normed).view(B, T, part.kv_heads, -1), context.cos, context.sin)
        k = k.repeat_interleave(part.heads // part.kv_heads, dim=1)
        scores_BHTT = (q @ k.transpose(2, 3)).float() / math.sqrt(q.shape[-1])
        later_TT = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
        return scores_BHTT.masked_fill(later_TT, -torch.inf).softmax(-1).mean(1).flatten(0, 1)[places_K]


@contextmanager
def capture_layer(model: Decoder, layer: int) -> Iterator[list[LayerPass]]:
    """The passes of a layer within, in their order. Around what runs a block and not within it, so that compiled blocks stay as
    they are; what a backward makes anew is not seen again."""
    plain, block, seen, open_ = model._run, model.blocks[layer], list[LayerPass](), [True]

    def run(each: Any, x: Tensor, waiting: Tensor | None, context: Context) -> Any:
        made = plain(each, x, waiting, context)
        if each is block and open_[0]:
            seen.append(LayerPass(each, x, waiting, context, made[0] if made[1] is None else made[0] + made[1]))
        return made

    model._run = run
    try:
        yield seen
    finally:
        model._run, open_[0] = plain, False

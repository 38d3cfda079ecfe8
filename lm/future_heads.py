"""Heads that predict tokens further ahead, beside a decoder that they train with: Gloeckle et al. 2024 (arXiv:2404.19737).

The trunk is all layers but the last, which is the head of the next token; each further head is a layer like it on the same
trunk, and the norm and the output head behind them are shared.
Letters as in lm/shape.py.
"""

import torch
from torch import Tensor, nn

from lm.block import Block
from lm.model import HEADS, Decoder, ModelConfig
from lm.parts import draw_

# Apart from the draws of the decoder, whose seeds are small
SEEDS = 1 << 32


class FutureHeads(nn.Module):
    """(model, ids_BT, bounds) -> x_BTD of the next token, which is the model's own, and of each head, of which the output head
    makes logits. `seed` decides the weights of the heads."""

    def __init__(self, config: ModelConfig, heads: int, seed: int) -> None:
        super().__init__()
        last = config.layers - 1
        self.blocks = nn.ModuleList(Block(config, last) for _ in range(heads))
        draw_(self, [(last, block) for block in self.blocks], config, torch.Generator().manual_seed(SEEDS + seed))

    def forward(self, model: Decoder, ids_BT: Tensor, bounds: Tensor | None) -> list[Tensor]:
        x_BTD, waiting_BTD, contexts = model.begin_pass(ids_BT, None, bounds)
        *below, own = model.blocks
        for block, context in zip(below, contexts, strict=False):
            x_BTD, waiting_BTD = model.run_block(block, x_BTD, waiting_BTD, context, None)
        branches = [model.run_block(block, x_BTD, waiting_BTD, contexts[-1], None) for block in (own, *self.blocks)]
        return [model.norm(x, waiting)[1] for x, waiting in branches]


def put_future_heads(model: Decoder, heads: int, seed: int) -> None:
    """Have the model carry so many heads beside its own, which are then trained with it."""
    made = FutureHeads(model.config, heads, seed)
    where = model.embedding.weight.device
    # fake tensors, of which forecasts are made, cannot be moved
    model.add_module(HEADS, made if next(made.parameters()).device == where else made.to(where))


def future_heads(model: nn.Module) -> nn.Module:
    """What the model carries."""
    return model.get_submodule(HEADS)

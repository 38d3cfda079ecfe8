"""Predict the next tokens, each by a head of its own on one trunk: Gloeckle et al. 2024 (arXiv:2404.19737), equation 2.

The loss is the sum of the cross-entropies of the next token and of those 1 to `heads` further on, all over the number of tokens
that are predicted. lm/future_heads.py has the heads, each a layer like the last one, and the shared output head.
Differs from the paper: heads come on top of the model's layers, where the paper takes as many layers from the trunk; no head's
logits are ever whole, so that heads need not go backward one after the other; the model that is saved is without them, one like
any other, and is not written with by several tokens at once.

Letters: B batch, T predictions a sequence, M the next token's head and all others.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from kernels.attention.documents import documents_of
from kernels.linear_cross_entropy import IGNORED, linear_cross_entropy
from lm.future_heads import FutureHeads, future_heads, put_future_heads
from lm.model import HEADS, Decoder, ModelConfig
from lm.training.batch import Metrics
from tasks.pretrain.objectives.base import FIRST, LossPosition, Objective


def shifted_targets(targets_BT: Tensor, further: int, bounds: Tensor | None) -> Tensor:
    """targets_BT of a head that predicts so many tokens further on; IGNORED behind the end of the row, and behind that of the
    token's document where bounds are given. The last target of a row may be of the next document: it is none then."""
    B, T = targets_BT.shape
    found_BT = targets_BT.roll(-further, 1)
    found_BT[:, max(T - further, 0) :] = IGNORED
    if bounds is None:
        return found_BT
    ends_BT = documents_of(bounds, B, T, targets_BT.device).ends_N.view(B, T)
    places_BT = torch.arange(B * T, device=targets_BT.device).view(B, T)
    return found_BT.where(places_BT + further + 1 < ends_BT, IGNORED)


class MultiToken(Objective):
    name: Literal["multi_token"] = "multi_token"
    heads: int = Field(3, gt=0, description="beside the next token's; the paper's best for code and text is 4 in all")

    def add_modules(self, model: Decoder, seed: int) -> None:
        put_future_heads(model, self.heads, seed)

    def drop(self, model: Decoder) -> None:
        delattr(model, HEADS)

    def added_parameters(self, shape: ModelConfig) -> int:
        with torch.device("meta"):
            return sum(weight.numel() for weight in FutureHeads(shape, self.heads, 0).parameters())

    def __call__(
        self,
        model: Decoder,
        tokens_BN: Tensor,
        bounds: Tensor | None,
        denominator: int,
        counted_BT: Tensor | None = None,
        each_BT: Tensor | None = None,
        at: LossPosition = FIRST,
    ) -> tuple[Tensor, Metrics]:
        """The sum over all heads and predictions divided by `denominator`, in nats, and the next token's part of it, and a
        mean over the others, as metrics. each_BT: gets the next token's cross-entropy of each prediction that counts. All
        else as the next token's objective has it."""
        x_BTD = future_heads(model)(model, tokens_BN[:, :-1], bounds)
        targets_BT = tokens_BN[:, 1:]
        if counted_BT is not None:
            targets_BT = targets_BT.where(counted_BT, IGNORED)
        targets_MBT = torch.stack(
            [targets_BT, *(shifted_targets(targets_BT, n, bounds) for n in range(1, self.heads + 1))]
        )
        each_MBT = torch.empty(targets_MBT.shape, device=targets_BT.device)
        loss, _ = linear_cross_entropy(
            torch.cat([x.flatten(0, 1) for x in x_BTD]),
            model.head_weight,
            targets_MBT.flatten(),
            denominator=denominator,
            softcap=model.config.logit_softcap or 0.0,
            each_T=each_MBT.view(-1),
        )
        if each_BT is not None:
            each_BT.copy_(each_MBT[0])
        next_token = each_MBT[0].where(targets_BT != IGNORED, 0.0).sum() / denominator
        return loss, {"cross_entropy": next_token, "cross_entropy_ahead": (loss.detach() - next_token) / self.heads}

"""Predict the next token: the mean cross-entropy of every token given those before it.

Letters: B batch, T predictions a sequence, V vocabulary.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lm.config import Config


def next_token(logits_BTV: Tensor, targets_BT: Tensor, z_loss: float) -> tuple[Tensor, dict[str, float]]:
    """Mean cross-entropy in nats over all B*T predictions, plus z_loss times their mean squared log-partition.

    The second term keeps the logits from drifting (PaLM, arXiv:2204.02311, section 5).
    """
    cross_entropy = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
    if not z_loss:
        return cross_entropy, {}
    squared_log_partition = torch.logsumexp(logits_BTV, dim=-1).square().mean()
    figures = {"cross_entropy": cross_entropy.item(), "squared_log_partition": squared_log_partition.item()}
    return cross_entropy + z_loss * squared_log_partition, figures


class NextToken(Config):
    name: Literal["next_token"] = "next_token"
    z_loss: float = Field(0.0, ge=0, description="PaLM has 1e-4")

    def __call__(self, model: nn.Module, tokens_BN: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss and figures of a batch whose sequences have N = T + 1 tokens."""
        return next_token(model(tokens_BN[:, :-1]), tokens_BN[:, 1:], self.z_loss)

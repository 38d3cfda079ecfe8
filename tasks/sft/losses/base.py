"""What a loss of fine-tuning is given."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.linear_cross_entropy import linear_log_probabilities


@dataclass(frozen=True)
class TokenPredictions:
    """The K predictions of some rows that count.

    x_KD, of which head_VD makes logits; targets_K, the tokens to predict; weights_K of each, None where all are 1; owners_K,
    the number that each one's conversation has in the step. conversations: how many the step has. total: the sum of the weights
    of the whole step. softcap: of the logits; 0: none.
    """

    x_KD: Tensor
    head_VD: Tensor
    targets_K: Tensor
    weights_K: Tensor | None
    owners_K: Tensor
    conversations: int
    total: Tensor | float
    softcap: float = 0.0

    def log_probabilities(self) -> Tensor:
        """logp_K (nats, fp32) of the targets."""
        return linear_log_probabilities(self.x_KD, self.head_VD, self.targets_K, softcap=self.softcap)

    def by_conversation(self, values_K: Tensor) -> tuple[Tensor, Tensor]:
        """(sums_C of the values times their weights, here_C: whether these rows have any of a conversation)."""
        weighted_K = values_K if self.weights_K is None else values_K * self.weights_K
        sums_C = values_K.new_zeros(self.conversations, dtype=weighted_K.dtype).index_add(0, self.owners_K, weighted_K)
        here_C = torch.zeros(self.conversations, dtype=torch.bool, device=sums_C.device)
        return sums_C, here_C.index_fill(0, self.owners_K, True)

"""The step of supervised fine-tuning: the share that some conversations have in its loss."""

from torch import Tensor

from kernels.linear_cross_entropy import linear_cross_entropy
from lm.model import Decoder
from lm.training.batch import Metrics
from lm.training.data.conversations import hidden_at


def loss_of(model: Decoder, ids_RN: Tensor, kept_K: Tensor, denominator: Tensor | float) -> tuple[Tensor, Metrics]:
    """Cross-entropy (nats) of the K predictions at these places of the rows laid end to end, over the denominator.

    The head makes logits at these places alone.
    """
    x_KD = hidden_at(model, ids_RN[:, :-1], kept_K)
    targets_K = ids_RN[:, 1:].flatten()[kept_K]
    return linear_cross_entropy(x_KD, model.head_weight, targets_K, denominator=denominator)[0], {}

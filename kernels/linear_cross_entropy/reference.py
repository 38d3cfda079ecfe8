"""The cross-entropy of a linear layer's logits, with all of them in memory.

Letters: T tokens, D width, V vocabulary.
"""

import torch
from torch import Tensor


def linear_cross_entropy(
    x_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    weights_T: Tensor,
    denominator: Tensor,
    softcap: float,
    z_loss: float,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """(loss, its part that is cross-entropy), sums over the tokens of weight * term / denominator, in nats.

    A token's term is its cross-entropy plus z_loss times its squared log-partition (PaLM, arXiv:2204.02311, section 5). With
    a softcap c above 0 the logits are c tanh(logits / c) (Gemma 2, arXiv:2408.00118, section 2.2). The temperature divides them
    after that.
    """
    logits_TV = (x_TD @ weight_VD.to(x_TD.dtype).T).to(torch.promote_types(x_TD.dtype, torch.float32))
    if softcap:
        logits_TV = softcap * torch.tanh(logits_TV / softcap)
    logits_TV = logits_TV / temperature
    log_partition_T = torch.logsumexp(logits_TV, dim=-1)
    cross_entropy_T = log_partition_T - logits_TV.gather(1, targets_T[:, None])[:, 0]
    cross_entropy = (weights_T * cross_entropy_T).sum() / denominator
    return cross_entropy + z_loss * (weights_T * log_partition_T.square()).sum() / denominator, cross_entropy


def linear_log_probabilities(
    x_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, temperature: float, softcap: float = 0.0
) -> Tensor:
    """logp_T of the targets, in nats, where logits are capped, and divided by the temperature."""
    logits_TV = (x_TD @ weight_VD.to(x_TD.dtype).T).to(torch.promote_types(x_TD.dtype, torch.float32))
    if softcap:
        logits_TV = softcap * torch.tanh(logits_TV / softcap)
    return (logits_TV / temperature).log_softmax(-1).gather(1, targets_T[:, None])[:, 0]

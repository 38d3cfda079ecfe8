"""Which experts a token goes through where it does not choose them alone, and by which weights: arithmetic of
lm/feed_forwards/experts.py.

Expert choice: Zhou et al. 2022 (arXiv:2202.09368, section 3.2). Experts choose tokens while a model trains; afterwards a token
goes through those for which its score is above a threshold that was learned meanwhile, since a sampler has no later tokens to
choose from. Dense training and sparse inference: Pan et al. 2024 (arXiv:2404.05567, section 3), with their loss of mutual
information.

Letters as in lm/feed_forwards/experts.py: X experts, A of them active, K tokens that an expert chooses of a row.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.context import autocast_dtype


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is no more than its weight: neither held otherwise nor watched by hooks, as a calibration's or ZeRO's."""
    return type(layer) is nn.Linear and not layer._forward_pre_hooks


def wide_product(layer: nn.Linear, x: Tensor) -> Tensor:
    """layer(x), in fp32 at least. Under autocast the factors are rounded, as a sampler's weights are, and the sums are
    not: rounded, they would often be equal."""
    if not is_plain(layer):
        made = layer(x)
        return made.to(torch.promote_types(made.dtype, torch.float32))
    dtype = autocast_dtype(x) or x.dtype
    wide = torch.promote_types(dtype, torch.float32)
    bias = None if layer.bias is None else layer.bias.to(dtype).to(wide)
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.to(dtype).to(wide), layer.weight.to(dtype).to(wide), bias)


def expert_choice_mask(scores_BTX: Tensor, active: int) -> Tensor:
    """chosen_BTX: of each row every expert has the K = T A / X tokens, rounded up, that score highest for it, so that all have
    equal loads and a token has A experts on average."""
    T, X = scores_BTX.shape[-2:]
    best_BKX = scores_BTX.topk(-(-T * active // X), 1).indices
    return torch.zeros_like(scores_BTX, dtype=torch.bool).scatter(1, best_BKX, True)


def quantile_loss(scores_BTX: Tensor, threshold_X: Tensor, share: float) -> Tensor:
    """Smallest where a share of the tokens scores above each expert's threshold (Koenker and Bassett 1978), a mean over tokens
    and experts; of the thresholds alone."""
    over_BTX = scores_BTX.detach() - threshold_X
    return torch.maximum((1 - share) * over_BTX, -share * over_BTX).mean()


def token_choice_mask(logits_BTX: Tensor, active: int, epsilon: float) -> Tensor:
    """chosen_BTX: of each token the A experts with the largest logits, less those whose share of the softmax over all is not
    above epsilon; the likeliest stays."""
    best_BTA = logits_BTX.topk(active, -1).indices
    likely_BTA = logits_BTX.softmax(-1).gather(-1, best_BTA) > epsilon
    first_A = torch.arange(active, device=logits_BTX.device) == 0
    return torch.zeros_like(logits_BTX, dtype=torch.bool).scatter(-1, best_BTA, likely_BTA | first_A)


def routing_weights(logits_BTX: Tensor, chosen_BTX: Tensor, normalised: bool) -> Tensor:
    """weights_BTX: the softmax over all experts, 0 where one is not chosen; normalised: divided by its sum over the chosen.
    Zeros for a token that no expert has chosen."""
    weights_BTX = logits_BTX.softmax(-1).masked_fill(~chosen_BTX, 0.0)
    if not normalised:
        return weights_BTX
    total_BT1 = weights_BTX.sum(-1, keepdim=True)
    return weights_BTX / torch.where(total_BT1 > 0, total_BT1, 1.0)


def information_loss(logits_BTX: Tensor) -> Tensor:
    """Less of it is more mutual information between tokens and experts: the mean entropy (nats) of a token's softmax less the
    entropy of the mean softmax, of each row, its mean over rows. Between -log X and 0."""
    log_BTX = logits_BTX.log_softmax(-1)
    of_tokens_B = -(log_BTX.exp() * log_BTX).sum(-1).mean(-1)
    mean_BX = log_BTX.exp().mean(-2)
    of_mean_B = -(mean_BX * mean_BX.clamp(min=torch.finfo(mean_BX.dtype).tiny).log()).sum(-1)
    return (of_tokens_B - of_mean_B).mean()

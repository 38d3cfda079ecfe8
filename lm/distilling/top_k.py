"""The tokens that a teacher finds the likeliest, with their log-probabilities: what is left of its distribution to be stored.

Letters: T tokens, V vocabulary, K tokens that are told apart, C = K + 1 with all others as one; E width of the teacher.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.linear_cross_entropy.chunks import backend


def gather_with_rest(logp_TV: Tensor, top_TK: Tensor) -> Tensor:
    """logp_TC of these tokens and, last, of all others together; K must be below V."""
    rest_T1 = logp_TV.scatter(1, top_TK, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat((logp_TV.gather(1, top_TK), rest_T1), dim=1)


def reduce_to_top_k(logp_TC: Tensor, count: int) -> Tensor:
    """The first `count` classes, and all others as one."""
    if count == logp_TC.shape[1] - 1:
        return logp_TC
    return torch.cat((logp_TC[:, :count], logp_TC[:, count:].logsumexp(-1, keepdim=True)), dim=1)


def top_k_with_rest(logits_TV: Tensor, count: int, temperature: float) -> tuple[Tensor, Tensor]:
    """(top_TK, logp_TC) of the distribution at the temperature, the likeliest first."""
    logp_TV = F.log_softmax(logits_TV / temperature, dim=-1)
    top_TK = logp_TV.topk(count, dim=-1).indices
    return top_TK, gather_with_rest(logp_TV, top_TK)


@torch.no_grad()
def linear_top_k_with_rest(x_TE: Tensor, weight_VE: Tensor, count: int, temperature: float) -> tuple[Tensor, Tensor]:
    """(top_TK, logp_TC) of a head's logits, of which a chunk of tokens is held at a time; fp32 at least."""
    wide = torch.promote_types(x_TE.dtype, torch.float32)
    chunk = backend(x_TE.is_cuda).chunk_tokens(len(x_TE), len(weight_VE), wide.itemsize)
    weight_VE = weight_VE.to(x_TE.dtype)
    parts = [
        top_k_with_rest((x_TE[start : start + chunk] @ weight_VE.T).to(wide), count, temperature)
        for start in range(0, len(x_TE), chunk)
    ]
    return torch.cat([top for top, _ in parts]), torch.cat([logp for _, logp in parts])

"""A soft cap of logits: Gemma 2 (arXiv:2408.00118, section 2.2), whose cap is 30; nanochat and modded-nanogpt have 15."""

import torch
from torch import Tensor


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """softcap tanh(logits / softcap), made in fp32 and given in the dtype of the logits; None: the logits."""
    if softcap is None:
        return logits
    return (softcap * torch.tanh(logits.float() / softcap)).to(logits.dtype)

"""Tokens that may be drawn at all: those of the nucleus, and those not far below the likeliest.

Letters: R rows, V vocabulary.
"""

import math
from typing import Any

import torch
from torch import Tensor

from lm.decoding import Rows


def nucleus(logits_RV: Tensor, share: float) -> Tensor:
    """keep_RV of the fewest tokens, likeliest first and of equals the lowest id, whose probabilities sum up to `share` or more
    (top-p; Holtzman et al. 2020, arXiv:1904.09751, section 3.1). One token is always kept."""
    sorted_RV, order_RV = logits_RV.double().sort(stable=True, dim=-1, descending=True)
    # torch's cumsum of floats on CUDA has no deterministic order (2.13) and raises in the deterministic mode of the stages
    ends_RV = sorted_RV.softmax(-1).cpu().cumsum(-1).to(logits_RV.device)
    before_RV = torch.nn.functional.pad(ends_RV[:, :-1], (1, 0))
    return torch.zeros_like(order_RV, dtype=torch.bool).scatter_(-1, order_RV, before_RV < share)


def near_the_likeliest(logits_RV: Tensor, share: float) -> Tensor:
    """keep_RV of tokens whose probability is `share` of the likeliest one's or more (min-p; Nguyen et al. 2024,
    arXiv:2407.01082, section 3). One token is always kept."""
    wide_RV = logits_RV.double()
    return wide_RV >= wide_RV.amax(-1, keepdim=True) + math.log(share)


def filtered(logits_RV: Tensor, temperature: float, top_p: float, min_p: float) -> Tensor:
    """logits_RV, -inf where a token may not be drawn at this temperature, which is above 0. top_p 1 and min_p 0 forbid nothing.

    Both filters see softmax(logits / temperature): what one leaves over the other does not change, as in transformers, where
    temperature, top-p and min-p follow each other in this order.
    """
    tempered_RV = logits_RV.float() / temperature
    if top_p < 1:
        logits_RV = logits_RV.masked_fill(~nucleus(tempered_RV, top_p), -torch.inf)
    if min_p > 0:
        logits_RV = logits_RV.masked_fill(~near_the_likeliest(tempered_RV, min_p), -torch.inf)
    return logits_RV


class FilteredRows(Rows):
    """Rows whose tokens are drawn from among those that the filters leave; log-probabilities are those of that draw."""

    def __init__(self, *given: Any, top_p: float, min_p: float) -> None:
        super().__init__(*given)
        self._top_p, self._min_p = top_p, min_p

    def pick(self, step: int, temperature: float, points_R: Tensor) -> None:
        """Every row's next token. Its logits, which the next step writes anew, are no more what they were."""
        if temperature > 0:
            self._logits_RV.copy_(filtered(self._logits_RV, temperature, self._top_p, self._min_p))
        super().pick(step, temperature, points_R)

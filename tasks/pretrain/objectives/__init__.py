"""Pretraining objectives: `(model, tokens_BN, bounds, denominator, counted_BT, each_BT, at) -> loss, metrics`.

Both are sums over the sequences divided by the denominator, so the parts of a batch add up to the whole; bounds, if given,
are of the documents that attention stays within, counted_BT says which predictions count, and `at` which rows of which step
they are, from which follows all that is drawn.
"""

from tasks.pretrain.objectives.masked_diffusion import MaskedDiffusion
from tasks.pretrain.objectives.multi_token import MultiToken
from tasks.pretrain.objectives.next_token import NextToken
from tasks.pretrain.objectives.salt import Salt

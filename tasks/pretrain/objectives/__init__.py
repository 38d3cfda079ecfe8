"""Pretraining objectives: `(model, tokens_BN, bounds, denominator, counted_BT) -> loss, metrics`.

Both are sums over the sequences divided by the denominator, so the parts of a batch add up to the whole; bounds, if given,
are of the documents that attention stays within, and counted_BT says which predictions count.
"""

from tasks.pretrain.objectives.multi_token import MultiToken
from tasks.pretrain.objectives.next_token import NextToken

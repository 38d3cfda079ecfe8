"""Pretraining objectives: `(model, tokens_BN, bounds, denominator) -> loss, figures`.

Both are sums over the sequences divided by the denominator, so the parts of a batch add up to the whole; bounds, if given,
are of the documents that attention stays within.
"""

from tasks.pretrain.objectives.next_token import NextToken

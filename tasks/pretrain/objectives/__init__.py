"""Pretraining objectives: `(model, tokens) -> loss, metrics`, the denominator stated."""

from tasks.pretrain.objectives.next_token import NextToken

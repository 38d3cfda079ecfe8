"""A toy model that ends what it says, for sources that let it answer."""

import torch

from lm.model import Decoder
from tests.lm.models import toy_model, toy_tokenizer


def speaks(context: int = 48) -> Decoder:
    """A model that ends its answers now and then."""
    model = toy_model(seed=4, tied=False, context=context)
    with torch.no_grad():
        x_D = model.hidden(torch.arange(40)[None])[0].mean(0)
        model.head.weight[toy_tokenizer().end_id] = 4 * x_D / x_D.square().sum()
    return model

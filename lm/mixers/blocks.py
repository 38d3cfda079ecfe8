"""Documents of a pass for mixers that go by blocks of them (kernels/block_attention).

Letters as in lm/mixers/attention.py.
"""

import torch
from torch import Tensor

from lm.context import Context


def starts_of(context: Context, rows: int, length: int) -> Tensor:
    """starts_BT: the place in its row of the first token of each token's document."""
    device = context.cos.device
    if context.documents is None:
        return torch.zeros(rows, length, dtype=torch.int32, device=device)
    starts_BT = context.documents.starts_N.view(rows, length)
    return starts_BT - length * torch.arange(rows, dtype=starts_BT.dtype, device=device)[:, None]

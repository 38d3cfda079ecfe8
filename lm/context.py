"""What the parts of a decoder are told of a pass, and in which type its products are computed.

Letters: B rows, T tokens of a row in this pass, E head width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.attention.documents import Documents


@dataclass(frozen=True)
class Context:
    """A pass as one layer sees it, beside its input.

    It holds tensors and no numbers, since a compiled block would be compiled anew for each.

    cos, sin: the rotation of each token by its position: T x E/2, or B x 1 x T x E/2 where rows have lengths of their own.
    documents: to which document each token belongs; None: a row is one.
    shared: what the layer's mixer made of the pass, once for all layers of its kind.
    state: what the layer's mixer has kept of the tokens before these, which it updates; None: there are none, and nothing is
    kept. Beside a state only: positions_BT of the tokens in their rows; lengths_B, how many tokens each row had before;
    counts_B, how many of the T tokens are the row's, from the first on, the others being padding (None: all).
    first: nothing has been kept of any row yet.
    Where layers have embeddings only: ids_BT; embedded_BTD, the stream as it began; values, (share, more_BTX) by which the
    layer's attention replaces its values v by share v + more.
    """

    cos: Tensor
    sin: Tensor
    documents: Documents | None = None
    shared: Any = None
    state: Any = None
    positions_BT: Tensor | None = None
    lengths_B: Tensor | None = None
    counts_B: Tensor | None = None
    first: bool = True
    ids_BT: Tensor | None = None
    embedded_BTD: Tensor | None = None
    values: tuple[Tensor, Tensor] | None = None


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Dtype of products of x under autocast now; None without autocast."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else None

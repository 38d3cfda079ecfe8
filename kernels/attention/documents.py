"""Which document each token belongs to, said once for all layers of a pass.

Letters: B rows of T tokens, N = B x T.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Documents(NamedTuple):
    """Start of each token's document, and its end (the token after its last), as int32 on the device of the tokens. Their
    shapes do not depend on the number of documents, so what is compiled for one batch serves every other."""

    starts_N: Tensor
    ends_N: Tensor


def documents_of(bounds: Tensor, rows: int, length: int, device: torch.device) -> Documents:
    """The documents of `rows` rows of `length` tokens, by one copy to the device, which a GPU's host does not wait for.

    bounds: where documents begin in the B x T tokens, row after row, and B x T at the end: int32 or int64, on the CPU, each
    row's first token among them (the cumulative lengths of variable-length kernels). Raises ValueError for others.
    """
    _check(bounds, rows, length)
    spans = torch.stack((bounds[:-1], bounds[1:])).to(torch.int32)
    pair = spans.repeat_interleave(bounds.diff(), dim=1, output_size=rows * length)
    # from pageable memory, the copy would wait for all that the device has yet to do
    return Documents(*(pair.pin_memory() if device.type == "cuda" else pair).to(device, non_blocking=True))


def whole_rows(rows: int, length: int, device: torch.device) -> Documents:
    """Documents where each row is one."""
    starts_B = torch.arange(0, rows * length, length, dtype=torch.int32, device=device)
    starts_N = starts_B.repeat_interleave(length)
    return Documents(starts_N, starts_N + length)


def bounds_of(starts_N: Tensor) -> list[int]:
    """Bounds of the documents, as documents_of was given them."""
    return [*starts_N.unique_consecutive().tolist(), len(starts_N)]


def _check(bounds: Tensor, rows: int, length: int) -> None:
    if bounds.ndim != 1 or bounds.dtype not in (torch.int32, torch.int64) or bounds.device.type != "cpu":
        raise ValueError("bounds must be a 1-D int32 or int64 tensor on the CPU, where they are checked")
    tokens, offsets = rows * length, bounds.tolist()
    if not offsets or offsets[0] != 0 or offsets[-1] != tokens:
        raise ValueError(
            f"bounds must begin with 0 and end with B * T = {tokens}, not {offsets[:1]} and {offsets[-1:]}"
        )
    if any(end <= start for start, end in pairwise(offsets)):
        raise ValueError("bounds must increase: leave empty documents out")
    crossed = set(range(0, tokens, length)).difference(offsets)
    if crossed:
        raise ValueError(
            f"a document crosses into the row at token {min(crossed)}: add each row's first token to bounds"
        )

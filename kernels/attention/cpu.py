"""Causal attention a document at a time, in strips of queries that see the keys up to their own end and no more.

torch's fused CPU kernel (2.13) takes keys in blocks of 512 and skips whole blocks only, so that up to 512 tokens its causal
attention costs as much as full attention. A strip is given the keys it may see, with a mask for the last of them. Processor
time, forward and backward, fp32, lognormal lengths of mean 250, median of 9: 1.26 (heads of 32) and 1.31 to 1.38 (of 64) times
less than F.scaled_dot_product_attention in a loop over torch.split, about 2 times less than whole rows of 512 and 2.4 to 2.6
than rows of 1024. At a mean of 60 the loop is as fast. Documents padded to one length would be exact, causality hiding the
padding, but cost 1.1 (within a tenth of the longest) to 1.8 times (within half) what the loop costs.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from kernels.attention.documents import bounds_of

# strips of 128 cost 1.0 to 1.4 times as much up to 1024 tokens, most for short documents, and 0.93 to 0.98 at 2048
STRIP = 64
# by the instructions that torch uses: with AVX-512 (Intel Xeon) 8192 tokens of 4 heads of 64 take 104 ms, 139 in strips of 64,
# at a mean of 250, 127 and 170 at 512, and at a mean of 60 as long
STRIPS = {"AVX512": 256}
# short documents of one length that go together: gathering them costs more than the calls saved if they are fewer, and of 512
# documents of mean length 15 it saves 0.36 of the time
COMMON = 4
# lengths of whole rows that strips are quicker for, too: 16 rows of 512 tokens and 4 heads of 64 take 89 ms, 110 in one call;
# of 256 as long either way, of 1024 149 and 152. With AVX-512 one call takes 98 and strips 127 to 156.
ROWS = range(257, 513)

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def repeated(x: Tensor, heads: int) -> Tensor:
    """x (..., K, E) with each head repeated to fill (..., heads, E): a view if K is 1 or `heads`, else a copy."""
    *outer, K, E = x.shape
    return x.unsqueeze(-2).expand(*outer, K, heads // K, E).flatten(-3, -2)


def strip_length() -> int:
    """Queries of a strip on this machine."""
    return STRIPS.get(torch.backends.cpu.get_cpu_capability(), STRIP)


def in_strips(length: int) -> bool:
    """Whether whole rows of this length are quicker in strips than in one call."""
    return length in ROWS and strip_length() == STRIP


def groups(bounds: list[int], strip: int) -> Iterator[tuple[int, slice | Tensor]]:
    """(length, tokens) of each document; short ones of a length that is common go together."""
    by_length: dict[int, list[int]] = {}
    for start, end in pairwise(bounds):
        by_length.setdefault(end - start, []).append(start)
    for length, starts in by_length.items():
        if length > strip or len(starts) < COMMON:
            yield from ((length, slice(start, start + length)) for start in starts)
        else:
            yield length, (torch.tensor(starts)[:, None] + torch.arange(length)).flatten()


def strips(length: int, strip: int, mask: Tensor | None) -> Iterator[tuple[slice, slice, Tensor | None]]:
    """(queries, keys, mask) of each strip; the first is a square, so that it needs no mask but is_causal."""
    yield slice(0, strip), slice(0, strip), None
    for begin in range(strip, length, strip):
        assert mask is not None
        end, zeros = min(begin + strip, length), mask.shape[1] - strip
        yield slice(begin, end), slice(0, end), mask[: end - begin, zeros - begin : zeros + end - begin]


def mask_of(bounds: list[int], strip: int, like: Tensor) -> Tensor | None:
    """What the strips of the longest document cut their masks from: zeros, then a triangle. None: one strip is enough."""
    longest = max(end - start for start, end in pairwise(bounds))
    if longest <= strip:
        return None
    triangle = torch.full((strip, strip), -torch.inf, dtype=like.dtype).triu(1)
    return torch.cat((triangle.new_zeros(strip, longest), triangle), dim=1)


def forward(q_NHE: Tensor, k_NHE: Tensor, v_NHE: Tensor, starts_N: Tensor, ends_N: Tensor) -> tuple[Tensor, Tensor]:
    """(mixed_NHE, logsumexp_HN), as the reference up to the order of rounding; as many heads of keys as of queries.

    The two halves of torch's kernel are called by name, since autograd of a loop over slices would write a gradient of the
    whole document for every strip.
    """
    N, H, _ = q_NHE.shape
    bounds, mixed_NHE = bounds_of(starts_N), q_NHE.new_empty(q_NHE.shape)
    logsumexp_HN = q_NHE.new_empty((H, N), dtype=_wide(q_NHE))
    strip = strip_length()
    mask = mask_of(bounds, strip, q_NHE)
    for length, tokens in groups(bounds, strip):
        q, k, v = (_documents(x, tokens, length) for x in (q_NHE, k_NHE, v_NHE))
        places = [mixed_NHE, _columns(logsumexp_HN)]
        mixed, logsumexp = rooms = [_room(x, tokens, length) for x in places]
        for queries, keys, hidden in strips(length, strip, mask):
            seen = q[:, :, queries], k[:, :, keys], v[:, :, keys]
            mixed[:, :, queries], logsumexp[:, :, queries, 0] = _forward(*seen, 0.0, hidden is None, attn_mask=hidden)
        for whole, part in zip(places, rooms, strict=True):
            _put_back(whole, tokens, part)
    return mixed_NHE, logsumexp_HN


def backward(
    grad_NHE: Tensor,
    q_NHE: Tensor,
    k_NHE: Tensor,
    v_NHE: Tensor,
    starts_N: Tensor,
    ends_N: Tensor,
    mixed_NHE: Tensor,
    logsumexp_HN: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq_NHE, dk_NHE, dv_NHE)."""
    bounds, strip = bounds_of(starts_N), strip_length()
    given, mask = [q_NHE, k_NHE, v_NHE, mixed_NHE, grad_NHE, _columns(logsumexp_HN)], mask_of(bounds, strip, q_NHE)
    # a key's gradient is a sum over strips, which bfloat16 would round after each
    grads = [x.new_empty(x.shape, dtype=_wide(x)) for x in (q_NHE, k_NHE, v_NHE)]
    for length, tokens in groups(bounds, strip):
        q, k, v, mixed, grad, logsumexp = (_documents(x, tokens, length) for x in given)
        dq, dk, dv = parts = [_room(x, tokens, length) for x in grads]
        for queries, keys, hidden in reversed(list(strips(length, strip, mask))):
            seen = q[:, :, queries], k[:, :, keys], v[:, :, keys], mixed[:, :, queries], logsumexp[:, :, queries, 0]
            more = _backward(grad[:, :, queries], *seen, 0.0, hidden is None, attn_mask=hidden)
            dq[:, :, queries] = more[0]
            if keys.stop >= length:  # the last strip, which comes first, sees all keys
                dk.copy_(more[1])
                dv.copy_(more[2])
            else:
                dk[:, :, keys] += more[1]
                dv[:, :, keys] += more[2]
        for whole, part in zip(grads, parts, strict=True):
            _put_back(whole, tokens, part)
    dq_NHE, dk_NHE, dv_NHE = (x.to(q_NHE.dtype) for x in grads)
    return dq_NHE, dk_NHE, dv_NHE


def _wide(x: Tensor) -> torch.dtype:
    """Dtype for sums of values of the dtype of x: fp32 or wider."""
    return torch.promote_types(x.dtype, torch.float32)


def _columns(x_HN: Tensor) -> Tensor:
    """x_HN as N x H x 1."""
    return x_HN.t()[:, :, None]


def _documents(x_NHE: Tensor, tokens: slice | Tensor, length: int) -> Tensor:
    """The documents of these tokens, documents x heads x length x E: a view for a slice, else a copy."""
    return x_NHE[tokens].unflatten(0, (-1, length)).transpose(1, 2)


def _room(x_NHE: Tensor, tokens: slice | Tensor, length: int) -> Tensor:
    """Where to write what _put_back puts there, of the shape that _documents gives."""
    if isinstance(tokens, slice):
        return _documents(x_NHE, tokens, length)
    return x_NHE.new_empty(len(tokens) // length, x_NHE.shape[1], length, x_NHE.shape[2])


def _put_back(x_NHE: Tensor, tokens: slice | Tensor, documents: Tensor) -> None:
    """x at these tokens = the documents; nothing to do for a slice, whose room was x itself."""
    if not isinstance(tokens, slice):
        x_NHE[tokens] = documents.transpose(1, 2).flatten(0, 1)

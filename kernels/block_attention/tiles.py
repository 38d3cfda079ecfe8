"""Exact attention of tiles of queries over the tiles of keys that are kept for each: tiles that are not kept are never read.

Tiles of queries that keep as many tiles of keys go together, each with its keys gathered beside each other, so that a product
has no tile that was left out. Backward as in FlashAttention (Dao et al. 2022, arXiv:2205.14135, algorithm 4): scores are made
anew, and of each row only the log-sum-exp is kept.

Letters: P planes (a head of a row), G planes of keys, plane p reading p // (P / G); T tokens of a plane; X tiles of queries and
Y tiles of keys in a plane, of b places each; E head width; n tiles of queries at once, with m tiles of keys each.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# scores at once: bounds what is held beside the tensors, 16 MiB in fp32 for each of a few
SCORES = 1 << 22


class Tiles(NamedTuple):
    """Places of tiles, in R planes, each of which stands for as many planes of tokens as R goes into them.

    tokens_RXb: the token in each place, each token once, -1 where there is none; groups_RXb: its group, -1 where there is none.
    A query sees the keys of its group whose token is not behind its own.
    """

    tokens_RXb: Tensor
    groups_RXb: Tensor

    def gather(self, x_PTE: Tensor) -> Tensor:
        """x in its tiles, one after the other, (P X) x b x E; 0 where no token is."""
        P, _, E = x_PTE.shape
        R, X, b = self.tokens_RXb.shape
        tokens_PN = self.tokens_RXb.view(R, X * b).repeat_interleave(P // R, 0)
        found = x_PTE.gather(1, tokens_PN.clamp(min=0)[..., None].expand(-1, -1, E))
        return found.masked_fill_((tokens_PN < 0)[..., None], 0.0).view(P * X, b, E)

    def scatter(self, x: Tensor, planes: int, length: int) -> Tensor:
        """x_PTE of what stands in tiles, (P X) x b x E."""
        R, X, b = self.tokens_RXb.shape
        tokens_RN = self.tokens_RXb.view(R, X * b)
        places_N = torch.arange(X * b, device=x.device).expand_as(tokens_RN)
        room_RT = places_N.new_zeros(R, length + 1)  # a place more for all that have no token
        room_RT = room_RT.scatter(1, torch.where(tokens_RN < 0, length, tokens_RN), places_N)[:, :length]
        places_PT1 = room_RT.repeat_interleave(planes // R, 0)[..., None]
        return x.view(planes, X * b, -1).gather(1, places_PT1.expand(-1, -1, x.shape[-1]))


def batches(kept_PXY: Tensor, share: int, places: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(tiles_n of queries among all P X, tiles_nm of keys among all G Y) with the same m, few enough at once. share: planes of
    queries to one of keys; places: of a pair of tiles."""
    _, X, Y = kept_PXY.shape
    counts_N = kept_PXY.sum(-1).flatten()
    tiles_L = kept_PXY.nonzero()[:, 2]
    first_N = counts_N.cumsum(0) - counts_N
    for count in counts_N.unique().tolist():
        if not count:
            continue
        alike = (counts_N == count).nonzero()[:, 0]
        for some_n in alike.split(max(1, SCORES // (count * places))):
            listed_nm = first_N[some_n, None] + torch.arange(count, device=some_n.device)
            yield some_n, tiles_L[listed_nm] + (some_n // X // share * Y)[:, None]


def forward(
    q_PTE: Tensor, k_GTE: Tensor, v_GTE: Tensor, queries: Tiles, keys: Tiles, kept_PXY: Tensor
) -> tuple[Tensor, Tensor]:
    """(mixed_PTE, logsumexp_PT): 0 in both for a query that sees no key."""
    P, T, E = q_PTE.shape
    q, k, v = queries.gather(q_PTE), keys.gather(k_GTE), keys.gather(v_GTE)
    mixed = torch.zeros_like(q)
    sums = q.new_zeros((*q.shape[:2], 1), dtype=_wide(q))
    for own, theirs, seen in _seen(queries, keys, kept_PXY, len(k_GTE)):
        scores = _scores(q[own], k[theirs].flatten(1, 2), seen)
        sum_nb1 = scores.logsumexp(-1, keepdim=True)
        sum_nb1 = torch.where(sum_nb1 == -torch.inf, 0.0, sum_nb1)
        shares = (scores - sum_nb1).exp_().to(v.dtype)
        mixed[own], sums[own] = shares @ v[theirs].flatten(1, 2), sum_nb1
    return queries.scatter(mixed, P, T), queries.scatter(sums, P, T)[..., 0]


def backward(
    grad_PTE: Tensor,
    q_PTE: Tensor,
    k_GTE: Tensor,
    v_GTE: Tensor,
    queries: Tiles,
    keys: Tiles,
    kept_PXY: Tensor,
    mixed_PTE: Tensor,
    logsumexp_PT: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq_PTE, dk_GTE, dv_GTE)."""
    (P, T, E), G, wide = q_PTE.shape, len(k_GTE), _wide(q_PTE)
    along_PT1 = (grad_PTE.to(wide) * mixed_PTE.to(wide)).sum(-1, keepdim=True)
    q, grad, along, sums = (queries.gather(x) for x in (q_PTE, grad_PTE, along_PT1, logsumexp_PT[..., None]))
    k, v = keys.gather(k_GTE), keys.gather(v_GTE)
    # a key's gradient is a sum over tiles, which bfloat16 would round after each
    dq, dk, dv = (torch.zeros_like(x, dtype=wide) for x in (q, k, v))
    for own, theirs, seen in _seen(queries, keys, kept_PXY, G):
        k_nSE, v_nSE = k[theirs].flatten(1, 2), v[theirs].flatten(1, 2)
        shares = (_scores(q[own], k_nSE, seen) - sums[own]).exp_()
        slopes = shares * ((grad[own] @ v_nSE.mT).to(wide) - along[own]) / math.sqrt(E)
        shares, slopes = shares.to(v.dtype), slopes.to(k.dtype)
        dq[own] = (slopes @ k_nSE).to(wide)
        for total, part in ((dk, slopes.mT @ q[own]), (dv, shares.mT @ grad[own])):
            total.index_add_(0, theirs.flatten(), part.to(wide).view(-1, *total.shape[1:]))
    dq, dk, dv = queries.scatter(dq, P, T), keys.scatter(dk, G, T), keys.scatter(dv, G, T)
    return dq.to(q_PTE.dtype), dk.to(k_GTE.dtype), dv.to(v_GTE.dtype)


def _seen(queries: Tiles, keys: Tiles, kept_PXY: Tensor, planes: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(tiles_n, tiles_nm, seen_nbS), S being the places of m tiles; planes: of keys."""
    P, X, Y = kept_PXY.shape
    b, of_keys = queries.tokens_RXb.shape[2], keys.tokens_RXb.shape[2]
    for own_n, theirs_nm in batches(kept_PXY, P // planes, b * of_keys):
        at_n = own_n // X // (P // len(queries.tokens_RXb)), own_n % X
        at_nm = theirs_nm // Y // (planes // len(keys.tokens_RXb)), theirs_nm % Y
        token_nb1, group_nb1 = (x[at_n][..., None] for x in queries)
        token_n1S, group_n1S = (x[at_nm].flatten(1)[:, None] for x in keys)
        yield own_n, theirs_nm, (group_nb1 == group_n1S) & (token_n1S <= token_nb1)


def _scores(q_nbE: Tensor, k_nSE: Tensor, seen_nbS: Tensor) -> Tensor:
    scores_nbS = (q_nbE @ k_nSE.mT).to(_wide(q_nbE)) / math.sqrt(q_nbE.shape[-1])
    return scores_nbS.masked_fill_(~seen_nbS, -torch.inf)


def _wide(x: Tensor) -> torch.dtype:
    """Dtype for sums of values of the dtype of x: fp32 or wider."""
    return torch.promote_types(x.dtype, torch.float32)

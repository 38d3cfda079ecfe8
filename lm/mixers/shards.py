"""Keys and values of heads that forget all but their shards of the tokens behind a band.

Letters as in lm/mixers/attention.py; R slots of the band, S behind it, C = R + S; U classes of blocks that a key head keeps.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lm.mixers.attention import KeysAndValues


class Shards:
    """Keys and values of one layer: the newest tokens in a ring of R slots, and S slots for those of the shards before them."""

    def __init__(self, kept: KeysAndValues) -> None:
        self.kept = kept

    def take(self, rows: Tensor, other: Any, theirs: Tensor) -> None:
        """Have these rows begin as those of another state, whose capacity is no larger."""
        self.kept.take(rows, kept_in(other), theirs)


def kept_in(state: Any) -> KeysAndValues:
    """The tensors of a state, which has a ring only where its rows may be longer than the band."""
    return state.kept if isinstance(state, Shards) else state


def places_behind(classes_KU: Tensor, stride: int, block: int, slots: int) -> Tensor:
    """position_KS of the token that each slot behind the ring is for: those of the key head's shards, in order."""
    slots_S = torch.arange(slots, device=classes_KU.device)
    number_S, each = slots_S // block, classes_KU.shape[1]
    return (classes_KU[:, number_S % each] + number_S // each * stride) * block + slots_S % block


class Room(NamedTuple):
    """The slots of a state: a ring of R, in which the token at position p has slot p mod R until a newer one takes it, and S
    behind it, which those of the shards then have."""

    ring: int
    behind_KS: Tensor

    def places(self, lengths_B: Tensor, positions_BT: Tensor) -> Tensor:
        """keys_BKJ: the positions of the tokens in the slots of rows of these lengths, and behind them of those that follow;
        negative where there is none."""
        lengths_B1, K = lengths_B[:, None], len(self.behind_KS)
        there_BKS = torch.where(self.behind_KS < lengths_B1[..., None] - self.ring, self.behind_KS, -1)
        ring_BKR, new_BKT = (x[:, None].expand(-1, K, -1) for x in (self._newest(lengths_B1), positions_BT))
        return torch.cat((ring_BKR, there_BKS, new_BKT), 2)

    def source(self, lengths_B: Tensor, then_B: Tensor) -> Tensor:
        """source_BKC: which of the slots, and of the tokens counted on behind them, is in each slot once rows of these lengths
        have those lengths."""
        lengths_B11, then_B11 = lengths_B[:, None, None], then_B[:, None, None]
        K, S = self.behind_KS.shape
        slots = self.ring + S
        own_C = torch.arange(slots, device=lengths_B.device)
        newest_B1R = self._newest(then_B11)
        ring_B1R = torch.where(newest_B1R >= lengths_B11, slots + newest_B1R - lengths_B11, own_C[: self.ring])
        leaves = (self.behind_KS >= lengths_B11 - self.ring) & (self.behind_KS < then_B11 - self.ring)
        was = self.behind_KS < lengths_B11
        from_BKS = torch.where(was, self.behind_KS % self.ring, slots + self.behind_KS - lengths_B11)
        behind_BKS = torch.where(leaves, from_BKS, own_C[self.ring :])
        return torch.cat((ring_B1R.expand(-1, K, -1), behind_BKS), 2)

    def _newest(self, lengths_: Tensor) -> Tensor:
        """Position of the newest token that has each slot of the ring, in the place of a last axis of 1."""
        slots_R = torch.arange(self.ring, device=lengths_.device)
        return lengths_ - 1 - (lengths_ - 1 - slots_R) % self.ring

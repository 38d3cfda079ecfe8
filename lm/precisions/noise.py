"""Noise for stochastic rounding, by counting: a hash of a counter, of what is rounded, and of the place in it.

No generator has a state, so that a run that was killed draws what it would have drawn. Two parts of a batch draw differently
because they hold other numbers, wherever and in which order they are computed: a rank draws for its rows what one process does.

The mixing of 32 bits is that of Wellons 2018, "lowbias32" (public domain).
"""

import torch
from torch import Tensor

BITS = 0xFFFFFFFF
FIRST, SECOND = 0x7FEB352D, 0x846CA68B


def mixed(number: int) -> int:
    """32 bits of a whole number's lowest 32, in which each of them has its say."""
    number &= BITS
    number = (number ^ (number >> 16)) * FIRST & BITS
    number = (number ^ (number >> 15)) * SECOND & BITS
    return number ^ (number >> 16)


def mixed_each(numbers: Tensor) -> Tensor:
    """`mixed` of each of int64 numbers from 0 to 2^32 - 1. No product leaves 63 bits: the second factor is taken less 2^32."""
    numbers = (numbers ^ (numbers >> 16)) * FIRST & BITS
    numbers = (numbers ^ (numbers >> 15)) * (SECOND - 2**32) & BITS
    return numbers ^ (numbers >> 16)


def key_of(values: Tensor, counter: Tensor) -> Tensor:
    """What the noise of these values hangs on: a counter and their own bits, whose sum no order of adding changes."""
    bits = values.float().contiguous().view(torch.int32)
    return mixed_each((counter ^ bits.sum(dtype=torch.int64)) & BITS)


def uniform(key: Tensor, shape: torch.Size) -> Tensor:
    """Numbers in fp32 from 0 to less than 1, in steps of 2^-24."""
    places = torch.arange(shape.numel(), device=key.device).view(shape)
    return (mixed_each((places + key) & BITS) >> 8) * 2.0**-24


def drawn(values: Tensor, counter: Tensor) -> Tensor:
    """Whole numbers, each value's lower or upper neighbour, on the mean the value itself (stochastic rounding)."""
    return (values + uniform(key_of(values, counter), values.shape)).floor()

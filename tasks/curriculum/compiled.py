"""Best-fit decreasing and sorting by small numbers, compiled: both are linear in the number of pieces.

In a file of its own because numba takes half a second to import.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tasks.core.jit import compiled

WORD = 64


def _count_trailing_zeros(typing_context: Any, word: Any) -> Any:
    """The type of `lowest_bit`, and how to make its code: one instruction of the processor."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), code


# The place of the lowest bit that is set in a uint64, which must have one; for compiled code alone
lowest_bit: Any = intrinsic(_count_trailing_zeros)


@compiled("int64(uint64[::1], uint64[::1], int64)")
def smallest_from(words: np.ndarray, summary: np.ndarray, value: int) -> int:
    """The smallest number in the set that is no less than the value; -1 where there is none.

    Bit i of words is set when i is in it; bit i of summary, when words[i] is not 0.
    """
    word, bit = value // WORD, value % WORD
    rest = words[word] >> np.uint64(bit)
    if rest:
        return value + lowest_bit(rest)
    word += 1
    place, bit = word // WORD, word % WORD
    rest = summary[place] >> np.uint64(bit)
    if rest:
        word += lowest_bit(rest)
        return word * WORD + lowest_bit(words[word])
    for later in range(place + 1, len(summary)):
        if summary[later]:
            word = later * WORD + lowest_bit(summary[later])
            return word * WORD + lowest_bit(words[word])
    return -1


@compiled("int64[::1](int64[::1], int64)", makes_arrays=True)
def grouped(groups: np.ndarray, count: int) -> np.ndarray:
    """N indexes: those of group 0 in their order, then of group 1, ...; a group is less than `count`, and a negative one is
    left out."""
    ends = np.zeros(count + 1, dtype=np.int64)
    for group in groups:
        if group >= 0:
            ends[group + 1] += 1
    for group in range(count):
        ends[group + 1] += ends[group]
    found = np.empty(ends[count], dtype=np.int64)
    for index in range(len(groups)):
        group = groups[index]
        if group >= 0:
            found[ends[group]] = index
            ends[group] += 1
    return found


@compiled("int64[::1](int64[::1], int64)", makes_arrays=True)
def best_fit_decreasing(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The bin of each piece, numbered as they are opened: the longest piece first, into the bin with the least space that
    still holds it. Lengths are from 1 to the capacity.

    Among pieces of one length the first goes first; among bins of one space the one that got it last. The bins of each space
    are a chain, and a set of two levels of bits tells which spaces have any.
    """
    order = grouped(capacity - lengths, capacity)
    bins = np.empty(len(lengths), dtype=np.int64)
    newest = np.full(capacity + 1, -1, dtype=np.int64)  # of each space: a bin that has it
    older = np.empty(len(lengths), dtype=np.int64)  # of each bin: another of the same space
    count_words = capacity // WORD + 2
    words = np.zeros(count_words, dtype=np.uint64)
    summary = np.zeros(count_words // WORD + 2, dtype=np.uint64)
    opened = 0
    for piece in order:
        length = lengths[piece]
        space = smallest_from(words, summary, length)
        if space < 0:
            chosen, space = opened, capacity
            opened += 1
        else:
            chosen = newest[space]
            newest[space] = older[chosen]
            if newest[space] < 0:
                word = space // WORD
                words[word] &= ~(np.uint64(1) << np.uint64(space % WORD))
                if not words[word]:
                    summary[word // WORD] &= ~(np.uint64(1) << np.uint64(word % WORD))
        bins[piece] = chosen
        left = space - length
        if left:
            older[chosen] = newest[left]
            newest[left] = chosen
            word = left // WORD
            words[word] |= np.uint64(1) << np.uint64(left % WORD)
            summary[word // WORD] |= np.uint64(1) << np.uint64(word % WORD)
    return bins

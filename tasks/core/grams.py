"""Stretches of text by their hashes, compiled. White space is left out and ASCII letters are in lower case.

Letters: N documents, G stretches (grams) of all of them, S slots of a table.
"""

import numpy as np
from numba import types

from tasks.core.jit import compiled, inlined

BYTES = types.Array(types.uint8, 1, "C", readonly=True)
FOLD = np.arange(256, dtype=np.uint8)
FOLD[ord("A") : ord("Z") + 1] += 32
FOLD[[9, 10, 11, 12, 13, 32]] = 0  # what is left out; no text holds NUL bytes
BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no byte's part is lost in the product
ZERO, ONE = np.uint64(0), np.uint64(1)


@inlined
def mixed(value):
    """64 bits of which each depends on all of the value's (the finalizer of MurmurHash3)."""
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@compiled(types.uint64(types.int64))
def power_of(length):
    """BASE to the length: what the first byte of a gram was multiplied by when it leaves."""
    power = ONE
    for _ in range(length):
        power *= BASE
    return power


@inlined
def slid(data, byte, behind, rolling, read, length, power):
    """The gram of so many folded bytes, of which `read` are read, with one more: (rolling, behind, read).

    behind: the byte that leaves the gram next.
    """
    rolling = rolling * BASE + np.uint64(byte)
    if read >= length:
        while FOLD[data[behind]] == 0:
            behind += 1
        rolling -= np.uint64(FOLD[data[behind]]) * power
        behind += 1
    return rolling, behind, read + 1


@compiled(makes_arrays=True)
def folded_lengths(data, offsets):
    """N numbers of bytes that are no white space."""
    found = np.zeros(len(offsets) - 1, np.int64)
    for text in range(len(found)):
        for at in range(offsets[text], offsets[text + 1]):
            found[text] += FOLD[data[at]] != 0
    return found


@compiled(makes_arrays=True)
def grams_of(data, begin, end, length):
    """Keys of all grams of so many folded bytes in the text from `begin` to `end`, in their order; none is 0."""
    found = np.empty(max(end - begin - length + 1, 0), np.uint64)
    power, rolling, behind, read, count = power_of(length), ZERO, begin, 0, 0
    salt = np.uint64(length) * BASE
    for at in range(begin, end):
        byte = FOLD[data[at]]
        if byte == 0:
            continue
        rolling, behind, read = slid(data, byte, behind, rolling, read, length, power)
        if read >= length:
            found[count] = max(mixed(rolling ^ salt), ONE)
            count += 1
    return found[:count].copy()


@compiled(makes_arrays=True)
def table_of(keys_G):
    """S slots, a power of two and at most half full. A key is in the first free one from that of its low bits on; 0 is free."""
    size = 16
    while size < 2 * len(keys_G):
        size *= 2
    slots = np.zeros(size, np.uint64)
    for key in keys_G:
        at = np.int64(key & np.uint64(size - 1))
        while slots[at] != 0 and slots[at] != key:
            at = (at + 1) & (size - 1)
        slots[at] = key
    return slots


@compiled(makes_arrays=True)
def bits_of(keys_G):
    """Bits that the keys' high halves name, 8 to 16 a key: they fit a cache where slots do not, and spare most looks there."""
    size = 512
    while size < 8 * len(keys_G):
        size *= 2
    bits = np.zeros(size // 64, np.uint64)
    for key in keys_G:
        bit = (key >> np.uint64(32)) & np.uint64(size - 1)
        bits[bit >> np.uint64(6)] |= ONE << (bit & np.uint64(63))
    return bits


@compiled(types.int64(types.uint64, types.Array(types.uint64, 1, "C", readonly=True)))
def slot_of(key, slots):
    """The slot of a key, -1 where the table has it not."""
    at = np.int64(key & np.uint64(len(slots) - 1))
    while slots[at] != 0:
        if slots[at] == key:
            return at
        at = (at + 1) & (len(slots) - 1)
    return -1


@compiled
def mark(data, offsets, length, bits, slots, seen_S):
    """Set seen_S at the slots of those grams of N texts that the table has."""
    power = power_of(length)
    salt, mask = np.uint64(length) * BASE, np.uint64(64 * len(bits) - 1)
    for text in range(len(offsets) - 1):
        rolling, read, behind = ZERO, 0, offsets[text]
        for at in range(offsets[text], offsets[text + 1]):
            byte = FOLD[data[at]]
            if byte == 0:
                continue
            rolling, behind, read = slid(data, byte, behind, rolling, read, length, power)
            if read < length:
                continue
            key = max(mixed(rolling ^ salt), ONE)
            bit = (key >> np.uint64(32)) & mask
            if (bits[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & ONE:
                slot = slot_of(key, slots)
                if slot >= 0:
                    seen_S[slot] = True


@compiled(makes_arrays=True)
def count_seen(data, begin, end, length, slots, limit):
    """(how many the table has, how many there are) of the grams of a text with keys up to the limit."""
    seen, count = 0, 0
    for key in grams_of(data, begin, end, length):
        if key <= limit:
            count += 1
            seen += slot_of(key, slots) >= 0
    return seen, count

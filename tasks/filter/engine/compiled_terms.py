"""Words in UTF-8 bytes, compiled: what stands between white space and punctuation, and a hash of it."""

import numpy as np
from numba import types

from tasks.core.jit import compiled

# of a byte: 0 belongs to a word, 1 separates, 2 may begin a separator of several bytes
KIND = np.array([0 if chr(byte).isalnum() else 1 for byte in range(128)] + [0] * 128, np.uint8)
KIND[[0xC2, 0xE2, 0xE3]] = 2
FOLD = np.array([byte + 32 if 65 <= byte <= 90 else byte for byte in range(256)], np.uint8)
PRIME, OFFSET = np.uint64(0x100000001B3), np.uint64(0xCBF29CE484222325)  # of FNV-1a
MIX_1, MIX_2, SHIFT = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53), np.uint64(33)

BYTES = types.Array(types.uint8, 1, "C", readonly=True)


@compiled(types.uint64(types.uint64))
def mixed(value):
    """The finalizer of MurmurHash3: every bit of the value changes half of the bits."""
    value = (value ^ (value >> SHIFT)) * MIX_1
    value = (value ^ (value >> SHIFT)) * MIX_2
    return value ^ (value >> SHIFT)


@compiled(types.int64(BYTES, types.int64, types.int64))
def separator(data, at, end):
    """How many bytes at `at` are one separator, 0 when a word goes on there: ASCII but letters and digits; U+0080-00BF,
    U+2000-207F (but ZWNJ and ZWJ, which stand inside words) and U+3000-303F, which hold the white space and punctuation of most
    scripts."""
    byte = data[at]
    if KIND[byte] < 2:
        return np.int64(KIND[byte])
    if byte == 0xC2:
        return 2
    if at + 2 < end and (data[at + 1] == 0x80 or (byte == 0xE2 and data[at + 1] == 0x81)):
        joins = byte == 0xE2 and data[at + 1] == 0x80 and 0x8C <= data[at + 2] <= 0x8D
        return 0 if joins else 3
    return 0


@compiled(types.Tuple((types.int64, types.int64, types.uint64))(BYTES, types.int64, types.int64))
def next_word(data, at, end):
    """(first byte, byte after the last, hash) of the next word at or after `at`; first byte == end when there is none.

    The hash is FNV-1a of the bytes, ASCII letters in lower case, mixed.
    """
    while at < end:
        skipped = separator(data, at, end)
        if not skipped:
            break
        at += skipped
    first, value = min(at, end), OFFSET
    while at < end:
        byte = data[at]
        if KIND[byte] and (KIND[byte] == 1 or separator(data, at, end)):
            break
        value = (value ^ np.uint64(FOLD[byte])) * PRIME
        at += 1
    return first, min(at, end), mixed(value)

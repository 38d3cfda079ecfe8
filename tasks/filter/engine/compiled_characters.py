"""Compiled: characters of UTF-8 text, hashes of its bytes, and what stands between white space."""

import numpy as np

from tasks.core.jit import compiled, inlined
from tasks.filter.engine.characters import BEYOND, KNOWN, SPACE

HASH_BASIS, HASH_FACTOR = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # of FNV-1a


@inlined
def character(data, at):
    """The code point at a byte, and how many bytes it takes."""
    first = data[at]
    if first < 0x80:
        return np.int64(first), 1
    if first < 0xE0:
        return np.int64(first & 0x1F) << 6 | np.int64(data[at + 1] & 0x3F), 2
    if first < 0xF0:
        return (np.int64(first & 0x0F) << 12) | (np.int64(data[at + 1] & 0x3F) << 6) | np.int64(data[at + 2] & 0x3F), 3
    code = (np.int64(first & 0x07) << 18) | (np.int64(data[at + 1] & 0x3F) << 12)
    return code | (np.int64(data[at + 2] & 0x3F) << 6) | np.int64(data[at + 3] & 0x3F), 4


@inlined
def kind_of(kinds, code):
    return np.int64(kinds[code]) if code < KNOWN else np.int64(BEYOND)


@inlined
def mixed(value):
    value ^= value >> np.uint64(32)
    value *= np.uint64(0xD6E8FEB86659FD93)
    value ^= value >> np.uint64(32)
    return value | np.uint64(1)


@compiled
def hash_of(data, start, end):
    """Hash of bytes, of 64 bits; never 0."""
    value = HASH_BASIS
    for at in range(start, end):
        value = (value ^ np.uint64(data[at])) * HASH_FACTOR
    return mixed(value)


@inlined
def hash_of_letters(data, start, end):
    """What hash_of gives where all bytes are letters of ASCII, else 0."""
    value = HASH_BASIS
    for at in range(start, end):
        if not 97 <= data[at] | 0x20 <= 122:
            return np.uint64(0)
        value = (value ^ np.uint64(data[at])) * HASH_FACTOR
    return mixed(value)


@inlined
def next_chunk(data, at, end, kinds):
    """The first chunk at or after a byte: where it begins and ends; both `end` where there is none."""
    start = end
    while at < end:
        if data[at] < 0x80:
            kind, width = kinds[data[at]], 1
        else:
            code, width = character(data, at)
            kind = kind_of(kinds, code)
        if kind & SPACE:
            if start < end:
                return start, at
        elif start == end:
            start = at
        at += width
    return start, end

"""Shingles of UTF-8 text and MinHash signatures of them, compiled: one pass over the bytes, no Python strings.

A text is cut into units, words or characters; `size` consecutive units are a shingle. Units come in blocks that stay in the
cache, so that a text of any length takes the same memory. Arithmetic is modulo 2^64, of the minima modulo 2^32.
Letters: N texts, B bands, P permutations, S shingles.
"""

import numpy as np

from tasks.core.jit import compiled
from tasks.dedup.engine.code_points import (
    ALONE,
    DOUBLE_QUOTE,
    HEBREW,
    JOINER,
    KATAKANA,
    KIND_BITS,
    LETTER,
    MARK,
    MID_LETTER,
    MID_NUMBER,
    NUMBER,
    SINGLE_QUOTE,
)

BLOCK = 1024
WORD_SEED = np.uint64(0xCBF29CE484222325)
WORD_FACTOR = np.uint64(0xD6E8FEB86659FD93)
SHINGLE_FACTOR = np.uint64(0x9E3779B97F4A7C15)
SPACE = np.uint64(32)
CODE = np.uint32((1 << KIND_BITS) - 1)
# Entries of the kinds up to JOINER are from FIRST on, and below BEYOND.
FIRST, BEYOND = np.uint32(LETTER << KIND_BITS), np.uint32((JOINER + 1) << KIND_BITS)
TAGS = 0xE0000  # marks from here on: tags, and variation selectors


@compiled
def mixed(x):
    """A 64-bit number scrambled one to one (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def beyond_ascii(data, at, end, folded):
    """(entry of the table of folded code points, where the next begins) of what begins at a byte above 127; no byte at `end` or
    after it is read."""
    first = np.uint32(data[at])
    more = 1 if first < 0xE0 else 2 if first < 0xF0 else 3
    code = first & np.uint32(0x3F >> more)
    stop = min(at + 1 + more, end)
    for place in range(at + 1, stop):
        code = np.uint32(code << np.uint32(6)) | np.uint32(data[place] & 0x3F)
    if code < len(folded):
        return folded[code], stop
    return np.uint32(code | np.uint32((MARK if code >= TAGS else ALONE) << KIND_BITS)), stop


@compiled
def kind_after(data, at, end, folded):
    """The kind of the next character that is no mark; 0 at the end."""
    while at < end:
        if data[at] < 128:
            entry, at = folded[data[at]], at + 1
        else:
            entry, at = beyond_ascii(data, at, end, folded)
        kind = entry >> np.uint32(KIND_BITS)
        if kind != MARK:
            return np.int64(kind)
    return 0


@compiled
def joins(kind, last, data, at, end, folded):
    """What a character is to a word that it may stand in (WB6, 7, 7a to 7c, 11, 12 of UAX #29): MARK where the word goes on
    behind it, ALONE where it ends with it, 0 where it ends before it. at: the byte after it."""
    after = kind_after(data, at, end, folded)
    if kind == DOUBLE_QUOTE:
        return MARK if last == HEBREW and after == HEBREW else 0
    if last == NUMBER:
        return MARK if kind != MID_LETTER and after == NUMBER else 0
    if kind != MID_NUMBER and last <= HEBREW and 1 <= after <= HEBREW:
        return MARK
    return ALONE if kind == SINGLE_QUOTE and last == HEBREW else 0


@compiled
def words(data, at, end, folded, units, filled):
    """Hashes of words into units[filled:]; returns where in the text to go on, which is never inside a word, and the count.

    A word is what Unicode's word boundaries (UAX #29) set apart and holds a letter, a number or a joiner such as _.
    """
    hashed, last = WORD_SEED, 0  # last: the kind of the word's last character that is no mark, 0 between words
    while at < end and filled < len(units):
        byte, begin = data[at], at
        if byte < 128:
            entry = folded[byte]
            at += 1
            if (
                entry - FIRST < BEYOND - FIRST and last <= JOINER
            ):  # most of most texts: ASCII that makes one word with ASCII
                hashed = (hashed ^ np.uint64(entry & CODE)) * WORD_FACTOR
                following = entry
                while at < end and data[at] < 128:
                    following = folded[data[at]]
                    if following - FIRST >= BEYOND - FIRST:
                        break
                    entry = following
                    hashed = (hashed ^ np.uint64(entry & CODE)) * WORD_FACTOR
                    at += 1
                last = np.int64(entry >> np.uint32(KIND_BITS))
                if following == 0:
                    units[filled] = hashed
                    filled += 1
                    hashed, last = WORD_SEED, 0
                    at += 1
                continue
            if entry == 0 and last == 0:
                continue
        else:
            entry, at = beyond_ascii(data, at, end, folded)
        kind = np.int64(entry >> np.uint32(KIND_BITS))
        if kind > JOINER:
            if kind > MARK:
                kind = joins(kind, last, data, at, end, folded) if last else 0
            elif kind == MARK:
                kind = MARK if last else 0
            elif last and not (kind == KATAKANA and last in (KATAKANA, JOINER)):
                at, kind = begin, 0  # a word of its own begins
        elif last > JOINER and kind and not (last == KATAKANA and kind == JOINER):
            at, kind = begin, 0
        if kind:
            hashed = (hashed ^ np.uint64(entry & CODE)) * WORD_FACTOR
            last = last if kind == MARK else kind
        elif last:
            units[filled] = hashed
            filled += 1
            hashed, last = WORD_SEED, 0
    if last:
        units[filled] = hashed
        filled += 1
    return at, filled


@compiled
def characters(data, at, end, folded, units, filled, gap):
    """Characters of words into units[filled:], one space where something else stands between two; as `words`, and the
    gap before what follows: 0 at the beginning of the text, 1 inside a word, 2 between two."""
    while at < end and filled + 1 < len(units):
        byte = data[at]
        if byte < 128:
            entry = folded[byte]
            at += 1
        else:
            entry, at = beyond_ascii(data, at, end, folded)
        kind = entry >> np.uint32(KIND_BITS)
        if kind and kind <= MARK:
            if gap == 2:
                units[filled] = SPACE
                filled += 1
            units[filled] = np.uint64(entry & CODE)
            filled += 1
            gap = 1
        elif gap:
            gap = 2
    return at, filled, gap


@compiled
def combined(units, count, size, out):
    """The hashes of the shingles of `count` units into `out`; returns how many there are."""
    found = count - size + 1
    for place in range(found):
        out[place] = units[place]
    for offset in range(1, size):
        for place in range(found):
            out[place] = out[place] * SHINGLE_FACTOR + units[place + offset]
    for place in range(found):
        out[place] = mixed(out[place])
    return found


@compiled
def next_shingles(data, end, folded, by_character, size, units, state, out):
    """The shingles of one more block of a text into `out`; returns how many. A text of fewer units than `size` has one of all.

    state: where to go on in the text, units carried over from the block before, the gap of `characters`, whether there was a
    shingle yet. It begins as (begin of the text, 0, 0, 0); all is done once state[0] is `end`.
    """
    at, filled, gap, some = state[0], state[1], state[2], state[3]
    if by_character:
        at, filled, gap = characters(data, at, end, folded, units, filled, gap)
    else:
        at, filled = words(data, at, end, folded, units, filled)
    found = 0
    if filled >= size:
        found = combined(units, filled, size, out)
        filled = size - 1
        for place in range(filled):
            units[place] = units[found + place]
    elif at == end and filled and not some:
        found = combined(units, filled, filled, out)
    state[0], state[1], state[2], state[3] = at, filled, gap, some or found
    return found


@compiled
def lower_minima(shingles, count, multipliers_P, offsets_P, minima_P):
    """Lower each minimum to that of a x + b modulo 2^32 over the shingles. The inner loop is over shingles: LLVM turns it into
    vpmulld and vpminud."""
    for p in range(len(minima_P)):
        a, b, least = multipliers_P[p], offsets_P[p], minima_P[p]
        for place in range(count):
            least = min(least, np.uint32(a * shingles[place] + b))
        minima_P[p] = least


@compiled(makes_arrays=True)
def signatures(data, offsets, folded, by_character, size, multipliers_P, offsets_P):
    """N x P minima of the shingles of texts, 2^32 - 1 where there are none."""
    texts = len(offsets) - 1
    minima_NP = np.full((texts, len(multipliers_P)), np.uint32(0xFFFFFFFF), dtype=np.uint32)
    units, out = np.empty(BLOCK + size, dtype=np.uint64), np.empty(BLOCK + size, dtype=np.uint64)
    narrow, state = np.empty(BLOCK + size, dtype=np.uint32), np.zeros(4, dtype=np.int64)
    for text in range(texts):
        state[0], state[1], state[2], state[3] = offsets[text], 0, 0, 0
        while state[0] < offsets[text + 1]:
            found = next_shingles(data, offsets[text + 1], folded, by_character, size, units, state, out)
            for place in range(found):
                narrow[place] = np.uint32(out[place] >> np.uint64(32))
            lower_minima(narrow, found, multipliers_P, offsets_P, minima_NP[text])
    return minima_NP


@compiled
def band_keys(minima_NP, keys_BN):
    """64 bits of every band of P / B minima into keys_BN."""
    bands, rows = len(keys_BN), minima_NP.shape[1] // len(keys_BN)
    for text in range(len(minima_NP)):
        for band in range(bands):
            key = np.uint64(rows)
            for place in range(band * rows, band * rows + rows):
                key = mixed(key * SHINGLE_FACTOR + np.uint64(minima_NP[text, place]))
            keys_BN[band, text] = key


@compiled(makes_arrays=True)
def sort_unique(values, count, scratch):
    """Sort values[:count], numbers that are spread evenly over 64 bits, and drop repetitions; returns how many are left.

    Each goes into the bucket of its leading bits, of which there are as many as numbers; what is left to do is next to nothing.
    """
    bits = 1
    while (1 << bits) < count:
        bits += 1
    shift = np.uint64(64 - bits)
    ends = np.zeros((1 << bits) + 1, dtype=np.int64)
    for place in range(count):
        ends[(values[place] >> shift) + np.uint64(1)] += 1
    for bucket in range(1 << bits):
        ends[bucket + 1] += ends[bucket]
    for place in range(count):
        bucket = values[place] >> shift
        scratch[ends[bucket]] = values[place]
        ends[bucket] += 1
    left = 0
    for place in range(count):
        value, to = scratch[place], left
        while to > 0 and values[to - 1] > value:
            to -= 1
        if to > 0 and values[to - 1] == value:
            continue
        for moved in range(left, to, -1):
            values[moved] = values[moved - 1]
        values[to] = value
        left += 1
    return left


@compiled(makes_arrays=True)
def shingle_sets(data, offsets, folded, by_character, size, sizes_N):
    """The sorted unique shingles of texts, one set after another; how many each has goes into sizes_N."""
    longest, total = 0, 0
    for text in range(len(sizes_N)):
        length = offsets[text + 1] - offsets[text]
        most = length if by_character else 2 * length // 3 + 1  # "a", a raised digit of two bytes, "a", ...
        longest, total = max(longest, most), total + most
    sets, scratch = np.empty(total, dtype=np.uint64), np.empty(longest, dtype=np.uint64)
    units, out = np.empty(BLOCK + size, dtype=np.uint64), np.empty(BLOCK + size, dtype=np.uint64)
    state, begin = np.zeros(4, dtype=np.int64), 0
    for text in range(len(sizes_N)):
        state[0], state[1], state[2], state[3] = offsets[text], 0, 0, 0
        end = begin
        while state[0] < offsets[text + 1]:
            found = next_shingles(data, offsets[text + 1], folded, by_character, size, units, state, out)
            sets[end : end + found] = out[:found]
            end += found
        sizes_N[text] = sort_unique(sets[begin:end], end - begin, scratch) if end > begin else 0
        begin += sizes_N[text]
    return sets[:begin]

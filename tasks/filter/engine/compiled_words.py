"""Compiled: where the words of a UTF-8 text are, by white space, or by the rules of spaCy's English tokenizer.

Positions are bytes of `data`. A text is decoded a chunk at a time, a chunk being what stands between white space.
"""

import numpy as np

from tasks.core.jit import compiled, inlined
from tasks.filter.engine.characters import (
    ALPHA,
    BEFORE_PERIOD,
    DIGIT,
    INFIX,
    LOWER,
    MONEY,
    PREFIX,
    QUOTE,
    SUFFIX,
    UPPER,
)
from tasks.filter.engine.compiled_addresses import (
    CODE,
    COLON,
    KIND,
    MINUS,
    OFFSET,
    PERIOD,
    PLUS,
    SLASH,
    SUFFIX_END,
    is_address,
    run_of,
)
from tasks.filter.engine.compiled_characters import character, hash_of, kind_of, next_chunk

COMMA, DOLLAR = 44, 36
LETTER_S, LETTER_CAPITAL_S = 115, 83
APOSTROPHE, CURLY, EN_DASH, EM_DASH, TILDE, DEGREE = 39, 0x2019, 0x2013, 0x2014, 126, 0xB0
LONGEST_UNIT = 4


# Arrays that every function takes, few because each costs time at each call. `kinds`: bits of code points. `specials`: an open
# hash table of 2^k rows, a row a special word or unit: hash, tokens (0: a unit), tokens by the rules alone, the ends of the
# tokens in bytes from its start. `chunk`: (4, M) room for a chunk of fewer than M characters. `spans`: (M, 2) tokens found,
# where each begins and ends.
KEY, TOKENS, PLAIN, ENDS = 0, 1, 2, 3
# Bytes of the longest special word, and the most tokens that one has by the rules alone; words.py checks both.
LONGEST_SPECIAL, MOST_TOKENS = 20, 10
# Bytes; a longer run without white space is one word, so that room for it is bounded.
LONGEST_CHUNK = 1 << 20


@inlined
def row_of(specials, key):
    """The row of a hash, or -1."""
    mask = len(specials) - 1
    place = np.int64(key) & mask
    while specials[place, KEY]:
        if specials[place, KEY] == np.int64(key):
            return place
        place = (place + 1) & mask
    return -1


@inlined
def special(specials, data, start, end):
    """The row of a special word, or -1."""
    if end - start > LONGEST_SPECIAL:
        return -1
    row = row_of(specials, hash_of(data, start, end))
    return row if row >= 0 and specials[row, TOKENS] else -1


@inlined
def emit(spans, count, start, end):
    spans[count, 0], spans[count, 1] = start, end
    return count + 1


@inlined
def emit_special(specials, row, start, spans, count):
    first = start
    for part in range(specials[row, TOKENS]):
        last = start + specials[row, ENDS + part]
        count = emit(spans, count, first, last)
        first = last
    return count


@inlined
def prefix(chunk, left, right):
    """Characters to part from the front, 0 for none."""
    code = chunk[CODE, left]
    if code == PERIOD:
        run = run_of(chunk, PERIOD, left, right)
        return run if run > 1 else 0
    if code == PLUS:
        return 0 if left + 1 < right and chunk[KIND, left + 1] & DIGIT else 1
    if chunk[KIND, left] & PREFIX:
        return 1
    if code == 85 and left + 2 < right and chunk[CODE, left + 1] == 83 and chunk[CODE, left + 2] == DOLLAR:
        return 3  # US$
    return 2 if (code == 65 or code == 67) and left + 1 < right and chunk[CODE, left + 1] == DOLLAR else 0


@inlined
def suffix(specials, data, chunk, left, right):
    """Characters to part from the back, 0 for none; what stands before them is looked at from `left` on."""
    last = right - 1
    code, kind = chunk[CODE, last], chunk[KIND, last]
    before = chunk[KIND, last - 1] if last > left else 0
    if code == PERIOD:
        run = 1
        while last - run >= left and chunk[CODE, last - run] == PERIOD:
            run += 1
        if run > 1:
            return run
        if before & BEFORE_PERIOD:
            return 1
        second = chunk[KIND, last - 2] if last - 1 > left else 0
        after_degree = last - 1 > left and chunk[CODE, last - 2] == DEGREE and chunk[CODE, last - 1] in (67, 70, 75)
        return 1 if (before & second & UPPER) or after_degree else 0
    if (code in (LETTER_S, LETTER_CAPITAL_S)) and last > left and chunk[CODE, last - 1] in (APOSTROPHE, CURLY):
        return 2
    width = 1 if kind & SUFFIX or (before & DIGIT and (code == PLUS or kind & MONEY)) else 0
    at = last
    while at > left and last - at < LONGEST_UNIT and not chunk[KIND, at] & DIGIT:
        at -= 1
        if chunk[KIND, at] & DIGIT:
            row = row_of(specials, hash_of(data, chunk[OFFSET, at + 1], chunk[OFFSET, right]))
            return max(width, last - at) if row >= 0 and not specials[row, TOKENS] else width
    return width


@inlined
def infix(chunk, at, left, right):
    """Characters of what parts a word in its midst, 0 for none."""
    code, kind = chunk[CODE, at], chunk[KIND, at]
    if code == PERIOD:
        run = run_of(chunk, PERIOD, at, right)
        if run > 1:
            return run
    if kind & INFIX:
        return 1
    if at == left or at + 1 >= right:
        return 0
    before, after = chunk[KIND, at - 1], chunk[KIND, at + 1]
    if code == PERIOD:
        return 1 if before & (LOWER | QUOTE) and after & (UPPER | QUOTE) else 0
    if before & DIGIT and (after & DIGIT or chunk[CODE, at + 1] == MINUS) and code in (PLUS, MINUS, 42, 94):  # * ^
        return 1
    if code == COMMA:
        return 1 if before & ALPHA and after & ALPHA else 0
    if not before & (ALPHA | DIGIT):
        return 0
    if code in (MINUS, EM_DASH):
        run = run_of(chunk, code, at, right)
        most = 3 if code == MINUS else 2
        return run if run <= most and at + run < right and chunk[KIND, at + run] & ALPHA else 0
    if code in (EN_DASH, TILDE, COLON, SLASH) or 60 <= code <= 62:  # < = >
        return 1 if after & ALPHA else 0
    return 0


@inlined
def simple_parts(kinds, data, start, end):
    """Tokens of a chunk, as most are, of letters or of digits alone, ASCII all: 1, or 2 with a mark after them that is parted
    from them whatever they are; 1 of a lone character; 0 of any other. All steps of split_chunk would come to the same."""
    last = end - 1
    if last == start:
        return 1
    digits = 48 <= data[start] <= 57
    for at in range(start, last):
        if digits != (48 <= data[at] <= 57) or not (digits or 97 <= data[at] | 0x20 <= 122):
            return 0
    mark = data[last]
    if (digits and 48 <= mark <= 57) or (not digits and 97 <= mark | 0x20 <= 122):
        return 1
    if mark == PERIOD:
        return 2 if digits or data[last - 1] >= 97 else 0
    return 2 if mark < 0x80 and kinds[mark] & SUFFIX else 0


@compiled
def merge_specials(specials, data, spans, first, count):
    """Tokens of a chunk that together are a special word, in which the rules found as many, become its tokens; the longest
    first."""
    for size in range(min(MOST_TOKENS, count - first), 1, -1):
        at = first
        while at + size <= count:
            row = special(specials, data, spans[at, 0], spans[at + size - 1, 1])
            if row < 0 or specials[row, PLAIN] != size:
                at += 1
                continue
            after = emit_special(specials, row, spans[at, 0], spans, at)
            for place in range(at + size, count):
                emit(spans, after + place - at - size, spans[place, 0], spans[place, 1])
            count, at = count + after - at - size, after
    return count


@compiled
def special_between(specials, data, chunk, left, right):
    return special(specials, data, chunk[OFFSET, left], chunk[OFFSET, right]) >= 0


@compiled
def split_chunk(kinds, specials, data, start, end, chunk, spans, count, special_words):
    """Add the tokens of a chunk to spans, which has room for one a byte; returns how many there are now.

    The order of the steps is spaCy's: a special word as it is; affixes from both sides until none is left or a special word
    is; then addresses, then infixes; at last, special words that the rules took apart.
    """
    if end - start > LONGEST_CHUNK:
        return emit(spans, count, start, end)
    row = special(specials, data, start, end) if special_words else -1
    if row >= 0:
        return emit_special(specials, row, start, spans, count)
    first, size, at = count, 0, start
    while at < end:
        code, width = character(data, at)
        chunk[CODE, size], chunk[KIND, size], chunk[OFFSET, size] = code, kind_of(kinds, code), at
        size += 1
        at += width
    chunk[OFFSET, size] = end
    left, right, suffixes, before = 0, size, 0, -1
    while left < right and right - left != before:
        if special_words and before >= 0 and special_between(specials, data, chunk, left, right):
            break
        before = right - left
        front = prefix(chunk, left, right)
        if (
            special_words
            and front
            and left + front < right
            and special_between(specials, data, chunk, left + front, right)
        ):
            count = emit(spans, count, chunk[OFFSET, left], chunk[OFFSET, left + front])
            left += front
            break
        back = suffix(specials, data, chunk, left + front, right) if left + front < right else 0
        if back:
            chunk[SUFFIX_END, suffixes] = right
            suffixes += 1
            if special_words and right - back > left and special_between(specials, data, chunk, left, right - back):
                right -= back
                break
        if front:
            count = emit(spans, count, chunk[OFFSET, left], chunk[OFFSET, left + front])
        left, right = left + front, right - back
    if left < right:
        row = special(specials, data, chunk[OFFSET, left], chunk[OFFSET, right]) if special_words else -1
        if row >= 0:
            count = emit_special(specials, row, chunk[OFFSET, left], spans, count)
        elif is_address(chunk, left, right):
            count = emit(spans, count, chunk[OFFSET, left], chunk[OFFSET, right])
        else:
            count = split_infixes(chunk, left, right, spans, count)
    reached = chunk[OFFSET, right]
    while suffixes:
        suffixes -= 1
        count = emit(spans, count, reached, chunk[OFFSET, chunk[SUFFIX_END, suffixes]])
        reached = spans[count - 1, 1]
    return merge_specials(specials, data, spans, first, count) if special_words and count - first > 1 else count


@inlined
def split(kinds, specials, data, start, end, chunk, spans, count):
    """split_chunk with special words; what is simple is split without a call."""
    parts = simple_parts(kinds, data, start, end)
    if parts and special(specials, data, start, end) < 0:
        if parts == 1:
            return emit(spans, count, start, end)
        if special(specials, data, start, end - 1) < 0:
            return emit(spans, emit(spans, count, start, end - 1), end - 1, end)
    return split_chunk(kinds, specials, data, start, end, chunk, spans, count, True)


@inlined
def split_infixes(chunk, left, right, spans, count):
    at, begin = left, left
    while at < right:
        width = infix(chunk, at, left, right)
        if width and at > left:
            if at > begin:
                count = emit(spans, count, chunk[OFFSET, begin], chunk[OFFSET, at])
            count, begin = emit(spans, count, chunk[OFFSET, at], chunk[OFFSET, at + width]), at + width
        at += max(1, width)
    return emit(spans, count, chunk[OFFSET, begin], chunk[OFFSET, right]) if begin < right else count


@compiled(makes_arrays=True)
def room_for(size):
    """`chunk` and `spans` for chunks of up to so many bytes."""
    size = min(size, LONGEST_CHUNK)
    return np.empty((4, size + 1), np.int64), np.empty((size, 2), np.int64)


@compiled(makes_arrays=True)
def words_of(kinds, specials, data, special_words):
    """(N, 2): where the words of a text begin and end, by spaCy's rules, with or without its special words."""
    chunk, _ = room_for(len(data))
    spans, count, at, end = np.empty((len(data), 2), np.int64), 0, 0, len(data)
    while True:
        first, at = next_chunk(data, at, end, kinds)
        if first == at:
            return spans[:count]
        if special_words:
            count = split(kinds, specials, data, first, at, chunk, spans, count)
        else:
            count = split_chunk(kinds, specials, data, first, at, chunk, spans, count, False)

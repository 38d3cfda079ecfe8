"""Compiled: whether a word is an address of the web or of mail, which spaCy leaves whole.

A chunk is an array (4, M) as in tasks/filter/engine/compiled_words.py.
"""

from tasks.core.jit import compiled, inlined
from tasks.filter.engine.characters import ALPHA, DIGIT, LABEL, LOWER

PERIOD, PLUS, MINUS, COLON, AT, SLASH = 46, 43, 45, 58, 64, 47
CODE, KIND, OFFSET, SUFFIX_END = 0, 1, 2, 3  # rows of a chunk
LABEL_LENGTH, TLD_LENGTH = 64, 63


@inlined
def run_of(chunk, code, at, end):
    """Number of times that a character stands in a row, from a place on."""
    first = at
    while at < end and chunk[CODE, at] == code:
        at += 1
    return at - first


@compiled
def is_host(chunk, left, right):
    """Whether there stand labels with a period after each, a top-level domain of lower-case letters, and perhaps a port
    and a path."""
    labels, at = 0, left
    while at < right:
        end = at
        while end < right and (chunk[KIND, end] & LABEL or chunk[CODE, end] == 95 or chunk[CODE, end] == MINUS):
            end += 1
        if labels and 2 <= end - at <= TLD_LENGTH:
            lower = True
            for place in range(at, end):
                lower = lower and chunk[KIND, place] & LOWER != 0
            if lower:
                after = end
                if after < right and chunk[CODE, after] == COLON:
                    after += 1
                    while after < right and chunk[KIND, after] & DIGIT:
                        after += 1
                    after = after if 3 <= after - end <= 6 else end
                if after == right or chunk[CODE, after] in (SLASH, 63, 35):  # ? #
                    return True
        if end in (at, right) or chunk[CODE, end] != PERIOD or end - at > LABEL_LENGTH:
            return False
        if not chunk[KIND, at] & LABEL or not chunk[KIND, end - 1] & LABEL:
            return False
        labels, at = labels + 1, end + 1
    return False


@compiled
def is_address(chunk, left, right):
    """Whether it is an address of the web or of mail: perhaps a scheme, perhaps a user, a host. Numbers for a host are not
    known."""
    scheme = left
    while scheme < right and (
        chunk[KIND, scheme] & (ALPHA | DIGIT) or chunk[CODE, scheme] in (95, PLUS, MINUS, PERIOD)
    ):
        scheme += 1
    if is_host(chunk, left, right):
        return True
    has_scheme = scheme - left > 1 and scheme + 2 < right and chunk[CODE, scheme] == COLON
    if has_scheme and run_of(chunk, SLASH, scheme + 1, scheme + 3) == 2 and is_host(chunk, scheme + 3, right):
        return True
    users = 0
    for at in range(left + 1, right):
        if chunk[CODE, at] == AT:
            users += 1
            if is_host(chunk, at + 1, right):
                return True
            if users > 8:  # more are no address, and asking of each would take the square of their number
                return False
    return False

"""Spans of texts in UTF-8 bytes, compiled: gathered into a column, and found about what differs."""

from tasks.core.jit import compiled, inlined


@compiled(makes_arrays=True)  # for an assignment to a slice
def gather(data, starts, sizes, packed):
    """The bytes from each start, so many of each, one after another."""
    at = 0
    for row in range(len(sizes)):
        packed[at : at + sizes[row]] = data[starts[row] : starts[row] + sizes[row]]
        at += sizes[row]


@inlined
def begins_character(byte):
    return byte & 0xC0 != 0x80


@inlined
def after_characters(data, at, end, characters):
    """The place so many characters after `at`, which begins one; the end where there are fewer."""
    while at < end:
        if begins_character(data[at]):
            if not characters:
                return at
            characters -= 1
        at += 1
    return end


@compiled
def about_difference(before, before_places, after, after_places, rows, lead, length, spans):
    """Fill `spans` (N, 4) for the rows: the first byte and the size of an excerpt in `before`, then in `after`: up to `length`
    characters each, from `lead` characters before the first one that differs."""
    for number, row in enumerate(rows):
        one, one_end = before_places[row], before_places[row + 1]
        other, other_end = after_places[row], after_places[row + 1]
        same, least = 0, min(one_end - one, other_end - other)
        while same < least and before[one + same] == after[other + same]:
            same += 1
        # Characters that differ may begin with the same bytes.
        while 0 < same < one_end - one and not begins_character(before[one + same]):
            same -= 1
        back = 0
        while same > 0 and back < lead:
            same -= 1
            back += begins_character(before[one + same])
        spans[number, 0] = one + same
        spans[number, 1] = after_characters(before, one + same, one_end, length) - one - same
        spans[number, 2] = other + same
        spans[number, 3] = after_characters(after, other + same, other_end, length) - other - same

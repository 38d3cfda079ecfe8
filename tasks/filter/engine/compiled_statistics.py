"""Compiled: what the rules ask about a text, counted for all of them in one pass over its bytes.

Lines and paragraphs, like words, are compared by hashes of 64 bits.
"""

from enum import IntEnum, auto

import numpy as np

from tasks.core.jit import compiled, inlined
from tasks.filter.engine.characters import LETTER, LINE_BREAK, PUNCTUATION, SPACE, TERMINAL
from tasks.filter.engine.compiled_characters import character, hash_of, hash_of_letters, kind_of, next_chunk
from tasks.filter.engine.compiled_grams import add_grams, add_key, slots_for
from tasks.filter.engine.compiled_words import LONGEST_CHUNK, room_for, row_of, split

NEWLINE, RETURN, HASH, PERIOD, HYPHEN, ASTERISK = 10, 13, 35, 46, 45, 42
BULLET, ELLIPSIS = 0x2022, 0x2026
LONGEST_STOP_WORD = 4  # bytes


class Column(IntEnum):
    """Columns of the table of statistics. Lengths are in characters. Counted words are those that are not all punctuation
    for datatrove, and all words for the paper. TOP_2 to TOP_4: of the most frequent n-gram, all its occurrences. GRAM_5 to
    GRAM_10: in n-grams that occurred before."""

    CHARACTERS = 0
    WORDS = auto()
    WORD_CHARACTERS = auto()
    COUNTED_WORDS = auto()
    COUNTED_CHARACTERS = auto()
    ALPHABETIC_WORDS = auto()
    STOP_WORDS = auto()
    HASHES = auto()
    ELLIPSES = auto()
    NEWLINES = auto()
    LINES = auto()
    BULLET_LINES = auto()
    ELLIPSIS_LINES = auto()
    PIECES = auto()
    REPEATED_PIECES = auto()
    PIECE_CHARACTERS = auto()
    REPEATED_PIECE_CHARACTERS = auto()
    PARAGRAPHS = auto()
    REPEATED_PARAGRAPHS = auto()
    PARAGRAPH_CHARACTERS = auto()
    REPEATED_PARAGRAPH_CHARACTERS = auto()
    TOP_2 = auto()
    TOP_3 = auto()
    TOP_4 = auto()
    GRAM_5 = auto()
    GRAM_6 = auto()
    GRAM_7 = auto()
    GRAM_8 = auto()
    GRAM_9 = auto()
    GRAM_10 = auto()


CHARACTERS, WORDS, WORD_CHARACTERS = int(Column.CHARACTERS), int(Column.WORDS), int(Column.WORD_CHARACTERS)
COUNTED_WORDS, COUNTED_CHARACTERS = int(Column.COUNTED_WORDS), int(Column.COUNTED_CHARACTERS)
ALPHABETIC_WORDS, STOP_WORDS, HASHES = int(Column.ALPHABETIC_WORDS), int(Column.STOP_WORDS), int(Column.HASHES)
ELLIPSES, NEWLINES, LINES = int(Column.ELLIPSES), int(Column.NEWLINES), int(Column.LINES)
BULLET_LINES, ELLIPSIS_LINES = int(Column.BULLET_LINES), int(Column.ELLIPSIS_LINES)
PIECES, PARAGRAPHS, TOP_2 = int(Column.PIECES), int(Column.PARAGRAPHS), int(Column.TOP_2)
COLUMNS = len(Column)


@compiled
def length(data, start, end):
    """Number of characters: bytes that do not continue one."""
    count = 0
    for at in range(start, end):
        count += (data[at] & 0xC0) != 0x80
    return count


@compiled
def strip(data, start, end, kinds):
    """(start, end) of the text without white space at its ends."""
    while start < end:
        code, width = character(data, start)
        if not kind_of(kinds, code) & SPACE:
            break
        start += width
    while start < end:
        at = end - 1
        while (data[at] & 0xC0) == 0x80:
            at -= 1
        code, _ = character(data, at)
        if not kind_of(kinds, code) & SPACE:
            break
        end = at
    return start, end


@compiled
def line_end(data, at, end, kinds):
    """Where the line that begins at a byte ends, and where the next begins, by the rules of str.splitlines."""
    while at < end:
        byte = data[at]
        if byte >= 0x80:
            code, width = character(data, at)
        else:
            code, width = np.int64(byte), 1
        if kind_of(kinds, code) & LINE_BREAK:
            pair = code == RETURN and at + 1 < end and data[at + 1] == NEWLINE
            return at, at + (2 if pair else width)
        at += width
    return end, end


@compiled
def run_end(data, at, end, least):
    """Where the piece that begins at a byte ends, at a run of at least so many newlines, and where the next begins. At the
    end of the text there is none, and the next is -1."""
    while at < end:
        if data[at] == NEWLINE:
            after = at
            while after < end and data[after] == NEWLINE:
                after += 1
            if after - at >= least:
                return at, after
            at = after
        else:
            at += 1
    return end, -1


@compiled(makes_arrays=True)
def add_repeats(data, start, end, least, paper, kinds, found, column):
    """Count pieces of a text: how many there are, how many occurred before, and the characters of both, into four columns.

    least: newlines between pieces; 0 for any line break. paper: pieces are stripped, and empty ones are none.
    """
    count = 1
    for at in range(start, end):
        byte = data[at]
        count += byte == NEWLINE or (least == 0 and (10 < byte <= 13 or 27 < byte < 31 or byte == 0xC2 or byte == 0xE2))
    table = np.zeros(slots_for(count), np.uint64)
    at = start
    while at >= 0 and (at < end or least > 0):
        if least == 0:
            stop, after = line_end(data, at, end, kinds)
        else:
            stop, after = run_end(data, at, end, least)
        first, last = (at, stop) if not paper else strip(data, at, stop, kinds)
        at = after
        if paper and first == last:
            continue
        characters = length(data, first, last)
        found[column] += 1
        found[column + 2] += characters
        if not add_key(table, hash_of(data, first, last)):
            found[column + 1] += 1
            found[column + 3] += characters


@compiled
def add_lines(data, start, end, paper, kinds, found):
    """Lines, those that begin with a bullet, and those that end with an ellipsis. paper: blank lines are none, and an
    asterisk is a bullet."""
    at = start
    while at < end:
        stop, after = line_end(data, at, end, kinds)
        first, last = strip(data, at, stop, kinds)
        at = after
        if first == last:
            found[LINES] += not paper
            continue
        found[LINES] += 1
        code, _ = character(data, first)
        found[BULLET_LINES] += code in (BULLET, HYPHEN) or (paper and code == ASTERISK)
        if last - first >= 3:
            one, two, three = data[last - 3], data[last - 2], data[last - 1]
            found[ELLIPSIS_LINES] += (one == PERIOD and two == PERIOD and three == PERIOD) or (
                one == 0xE2 and two == 0x80 and three == 0xA6
            )


@compiled
def add_symbols(data, start, end, found):
    """Characters, '#', newlines, and ellipses of either kind, those of three periods not overlapping."""
    periods = 0
    for at in range(start, end):
        byte = data[at]
        found[CHARACTERS] += (byte & 0xC0) != 0x80
        found[HASHES] += byte == HASH
        found[NEWLINES] += byte == NEWLINE
        periods = periods + 1 if byte == PERIOD else 0
        if periods == 3:
            found[ELLIPSES] += 1
            periods = 0
        if byte == 0xE2 and at + 2 < end and data[at + 1] == 0x80 and data[at + 2] == 0xA6:
            found[ELLIPSES] += 1


@inlined
def add_counts(characters, letter, counted, found):
    """Count a word of so many characters; whether any is a letter, and whether it is a counted word."""
    found[WORDS] += 1
    found[WORD_CHARACTERS] += characters
    found[ALPHABETIC_WORDS] += letter
    found[COUNTED_WORDS] += counted
    found[COUNTED_CHARACTERS] += characters if counted else 0


@compiled
def add_word(data, start, end, kinds, paper, found):
    """Count a word; returns its length."""
    characters, letter, counted, at = 0, False, paper, start
    while at < end:
        if data[at] < 0x80:
            kind, width = kinds[data[at]], 1
        else:
            code, width = character(data, at)
            kind = kind_of(kinds, code)
        letter = letter or kind & LETTER != 0
        counted = counted or not kind & PUNCTUATION
        characters += 1
        at += width
    add_counts(characters, letter, counted, found)
    return characters


@inlined
def stop_word(stop_words, key):
    """The bit of the stop word that has this hash, or 0."""
    for number in range(len(stop_words)):
        if stop_words[number] == key:
            return 1 << number
    return 0


@compiled(makes_arrays=True)
def lower_hash(data, start, end):
    """The hash of a word no longer than stop words are in lower case, ASCII alone."""
    small = np.empty(LONGEST_STOP_WORD, np.uint8)
    for at in range(start, end):
        small[at - start] = data[at] | 0x20 if 65 <= data[at] <= 90 else data[at]
    return hash_of(small, 0, end - start)


@compiled(makes_arrays=True)
def wider(array, used, size):
    """The array, or a longer copy of what is used of it, with room for `size`."""
    if size <= len(array):
        return array
    longer = np.empty(2 * size, dtype=array.dtype)
    for place in range(used):
        longer[place] = array[place]
    return longer


@compiled(makes_arrays=True)
def count_all(kinds, specials, data, offsets, paper, repetition, stop_words, found):
    """Fill the rows of `found` for the texts that lie between offsets, as many as there are rows. repetition: also lines,
    paragraphs and n-grams that repeat."""
    chunk, spans = room_for(1024)
    hashes, lengths = np.empty(1024, np.uint64), np.empty(1024, np.int32)
    for row in range(len(found)):
        begin, stop, counts = offsets[row], offsets[row + 1], found[row]
        add_symbols(data, begin, stop, counts)
        add_lines(data, begin, stop, paper, kinds, counts)
        words, seen, at = 0, 0, begin
        while True:
            first, at = next_chunk(data, at, stop, kinds)
            if first == at:
                break
            parts, key = 1, hash_of_letters(data, first, at)
            spans[0, 0], spans[0, 1] = first, at
            if not paper and (not key or row_of(specials, key) >= 0):
                if len(spans) < at - first <= LONGEST_CHUNK:
                    chunk, spans = room_for(2 * (at - first))
                parts = split(kinds, specials, data, first, at, chunk, spans, 0)
            if words + parts > len(hashes):
                hashes, lengths = wider(hashes, words, words + parts), wider(lengths, words, words + parts)
            for part in range(parts):
                start, end = spans[part, 0], spans[part, 1]
                if key and parts == 1:
                    hashes[words], lengths[words] = key, end - start
                    add_counts(end - start, True, True, counts)
                else:
                    hashes[words] = hash_of(data, start, end)
                    lengths[words] = add_word(data, start, end, kinds, paper, counts)
                if end - start <= LONGEST_STOP_WORD:
                    seen |= stop_word(stop_words, lower_hash(data, start, end) if paper else hashes[words])
                words += 1
        while seen:
            counts[STOP_WORDS] += seen & 1
            seen >>= 1
        if repetition:
            add_repeats(data, begin, stop, 0 if paper else 1, paper, kinds, counts, PIECES)
            first, last = strip(data, begin, stop, kinds)
            add_repeats(data, first, last, 2, paper, kinds, counts, PARAGRAPHS)
            add_grams(hashes, lengths, words, paper, counts, TOP_2)


@compiled(makes_arrays=True)
def count_fineweb(kinds, data, offsets, short, found):
    """Lines between newlines that are not blank; of them, those that end with terminal punctuation, and those of at most
    `short` characters; characters of lines that occurred before: four columns a text."""
    for row in range(len(found)):
        begin, end = offsets[row], offsets[row + 1]
        count = 1
        for at in range(begin, end):
            count += data[at] == NEWLINE
        table, at = np.zeros(slots_for(count), np.uint64), begin
        while at <= end:
            stop = at
            while stop < end and data[stop] != NEWLINE:
                stop += 1
            first, last = strip(data, at, stop, kinds)
            if first < last:
                characters = length(data, at, stop)
                place = stop - 1
                while (data[place] & 0xC0) == 0x80:
                    place -= 1
                code, _ = character(data, place)
                found[row, 0] += 1
                found[row, 1] += (kind_of(kinds, code) & TERMINAL) != 0
                found[row, 2] += characters <= short
                if not add_key(table, hash_of(data, at, stop)):
                    found[row, 3] += characters
            at = stop + 1

"""Compiled: the lines of a text that C4 keeps, and what speaks against the text as a whole."""

from enum import IntEnum, auto

import numpy as np

from tasks.core.jit import compiled, inlined
from tasks.filter.engine.characters import CATEGORY_P, TERMINAL
from tasks.filter.engine.compiled_characters import character, kind_of, next_chunk
from tasks.filter.engine.compiled_statistics import PERIOD, length, line_end, strip
from tasks.filter.engine.compiled_words import LONGEST_CHUNK, room_for, split

OPEN, CLOSE, CURLY_BRACKET, SPACE_CHARACTER = 91, 93, 123, 32


class Count(IntEnum):
    """Columns of what became of a text. VERDICT: 0 when it stays, else a Verdict; BYTES: of the text that is left."""

    VERDICT = 0
    BYTES = auto()
    SENTENCES = auto()
    LONG_WORD_LINES = auto()
    UNENDED_LINES = auto()
    SHORT_LINES = auto()
    JAVASCRIPT_LINES = auto()
    POLICY_LINES = auto()
    CITATIONS = auto()


VERDICT, BYTES, SENTENCES, CITATIONS = int(Count.VERDICT), int(Count.BYTES), int(Count.SENTENCES), int(Count.CITATIONS)
LONG_WORD_LINES, UNENDED_LINES = int(Count.LONG_WORD_LINES), int(Count.UNENDED_LINES)
SHORT_LINES, JAVASCRIPT_LINES, POLICY_LINES = (
    int(Count.SHORT_LINES),
    int(Count.JAVASCRIPT_LINES),
    int(Count.POLICY_LINES),
)
COUNTS = len(Count)
LOREM_IPSUM, CURLY, TOO_FEW_SENTENCES = 1, 2, 3
# Phrases are numbered: the first marks a page, the second JavaScript, the others a policy.
PHRASES = (
    "lorem ipsum",
    "javascript",
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
CITATION_WORDS = ("[edit]", "[citation needed]")


@inlined
def holds(data, start, end, byte):
    """Whether any of the bytes is `byte`."""
    for at in range(start, end):  # any() of a generator is not compiled  # noqa: SIM110
        if data[at] == byte:
            return True
    return False


@compiled
def stands_at(data, at, end, phrase):
    """Whether a phrase in lower case stands there, in whatever case."""
    if at + len(phrase) > end:
        return False
    for place in range(len(phrase)):
        byte = data[at + place]
        if (byte | 0x20 if 65 <= byte <= 90 else byte) != phrase[place]:
            return False
    return True


@compiled
def citation(data, at, end, words):
    """Bytes of the citation mark that begins there, 0 for none: [12], [], [edit], [citation needed]."""
    after = at + 1
    while after < end and 48 <= data[after] <= 57:
        after += 1
    if after < end and data[after] == CLOSE:
        return after + 1 - at
    for word in words:
        same = 0
        while same < len(word) and at + same < end and data[at + same] == word[same]:
            same += 1
        if same == len(word):
            return same
    return 0


@compiled
def phrases_in(data, start, end, phrases, initials):
    """A bit for each phrase that occurs. initials: of each byte, whether a phrase begins with it, in either case."""
    found = 0
    for at in range(start, end):
        if initials[data[at]]:
            for number in range(len(phrases)):
                if stands_at(data, at, end, phrases[number]):
                    found |= 1 << number
    return found


@compiled(makes_arrays=True)
def initials_of(phrases):
    initials = np.zeros(256, np.bool_)
    for phrase in phrases:
        initials[phrase[0]] = initials[phrase[0] & 0xDF] = True
    return initials


@compiled
def common_kinds(data, start, end, kinds):
    """The bits that any of the characters has, and those that all have."""
    any_of, all_of, at = 0, -1, start
    while at < end:
        code, width = character(data, at)
        any_of |= kind_of(kinds, code)
        all_of &= kind_of(kinds, code)
        at += width
    return any_of, all_of


@compiled
def sentences_in(kinds, specials, data, start, end, chunk, spans):
    """Number of sentences by the rule of spaCy's sentencizer: one ends after terminal punctuation that stands as a word of its
    own, and what other punctuation follows it."""
    count, ended, at = 1, False, start
    while True:
        before = at
        first, at = next_chunk(data, at, end, kinds)
        if first == at:
            return count
        wide = first - before > 1 or (first > before and data[before] != SPACE_CHARACTER)
        if ended and wide and before > start:  # white space other than one space is a word to spaCy
            count, ended = count + 1, False
        any_of, all_of = common_kinds(data, first, at, kinds)
        if not any_of & TERMINAL:  # where it is split changes nothing
            if ended and not all_of & CATEGORY_P:
                count, ended = count + 1, False
            continue
        for part in range(split(kinds, specials, data, first, at, chunk, spans, 0)):
            _, all_of = common_kinds(data, spans[part, 0], spans[part, 1], kinds)
            if all_of & TERMINAL and length(data, spans[part, 0], spans[part, 1]) == 1:
                ended = True
            elif ended and not all_of & CATEGORY_P:
                count, ended = count + 1, False


@compiled
def words_in(data, start, end, kinds):
    """How many words there are between white space, and the characters of the longest."""
    count, longest, at = 0, 0, start
    while True:
        first, at = next_chunk(data, at, end, kinds)
        if first == at:
            return count, longest
        count, longest = count + 1, max(longest, length(data, first, at))


@compiled(makes_arrays=True)
def keep_lines(
    kinds,
    specials,
    data,
    offsets,
    marks,
    min_words,
    max_word,
    min_sentences,
    phrases,
    citations,
    remove_citations,
    out,
    counts,
):
    """Write what is left of each text to where it stood, in `out`, which is as large as `data`; and fill its row of counts.

    marks: bytes that may end a line. min_sentences: 0 leaves them uncounted.
    """
    chunk, spans = room_for(1024)
    initials = initials_of(phrases)
    for row in range(len(counts)):
        at, end, wrote = offsets[row], offsets[row + 1], offsets[row]
        found = counts[row]
        while at < end and not found[VERDICT]:
            stop, after = line_end(data, at, end, kinds)
            first, last = strip(data, at, stop, kinds)
            at = after
            words, longest = words_in(data, first, last, kinds)
            if longest > max_word:
                found[LONG_WORD_LINES] += 1
                continue
            begin = wrote + (wrote > offsets[row])  # room for the newline between lines
            place, removed = begin, 0
            while first < last:
                width = citation(data, first, last, citations) if remove_citations and data[first] == OPEN else 0
                removed += width > 0
                if not width:
                    out[place] = data[first]
                    place += 1
                first += max(width, 1)
            marked = place > begin and holds(marks, 0, len(marks), out[place - 1])
            if not marked or (
                place - begin >= 3
                and out[place - 1] == PERIOD
                and out[place - 2] == PERIOD
                and out[place - 3] == PERIOD
            ):
                found[UNENDED_LINES] += 1
                continue
            if words < min_words:
                found[SHORT_LINES] += 1
                continue
            present = phrases_in(out, begin, place, phrases, initials)
            if present & 1:
                found[VERDICT] = LOREM_IPSUM
            elif present & 2:
                found[JAVASCRIPT_LINES] += 1
            elif holds(out, begin, place, CURLY_BRACKET):
                found[VERDICT] = CURLY
            elif present:
                found[POLICY_LINES] += 1
            else:
                if min_sentences:
                    if len(spans) < min(place - begin, LONGEST_CHUNK):
                        chunk, spans = room_for(2 * (place - begin))
                    found[SENTENCES] += sentences_in(kinds, specials, out, begin, place, chunk, spans)
                found[CITATIONS] += removed
                if begin > wrote:
                    out[wrote] = 10
                wrote = place
        if not found[VERDICT] and found[SENTENCES] < min_sentences:
            found[VERDICT] = TOO_FEW_SENTENCES
        first, last = strip(out, offsets[row], wrote, kinds)
        for place in range(first, last):  # to the front of its place
            out[offsets[row] + place - first] = out[place]
        found[BYTES] = last - first

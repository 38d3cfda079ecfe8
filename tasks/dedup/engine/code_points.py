"""Digests of texts, and a table of what each character is to words, for compiled code."""

import re
from functools import cache

import numpy as np
import pyarrow as pa
import regex
import xxhash

from tasks.core.texts import text_buffers

# The two planes that scripts and emoji are in; what lies above is Chinese characters.
TABLE_SIZE = 1 << 17
# An entry of the table is a code point in lower case and, above its bits, its kind. Kinds up to JOINER make one word of any of
# them; kinds up to ALONE are what a word is made of, MARK goes with what stands before it.
KIND_BITS = 21
LETTER, HEBREW, NUMBER, JOINER, KATAKANA, ALONE, MARK = range(1, 8)
# Between two letters, two numbers, either, or (quotes) as these and beside Hebrew letters, they are part of a word.
MID_LETTER, MID_NUMBER, MID_BOTH, SINGLE_QUOTE, DOUBLE_QUOTE = range(8, 13)
# Values of Unicode's property Word_Break (UAX #29); all others break words.
KINDS = {
    "ALetter": LETTER,
    "Hebrew_Letter": HEBREW,
    "Numeric": NUMBER,
    "ExtendNumLet": JOINER,
    "Katakana": KATAKANA,
    "Extend": MARK,
    "Format": MARK,
    "ZWJ": MARK,
    "MidLetter": MID_LETTER,
    "MidNum": MID_NUMBER,
    "MidNumLet": MID_BOTH,
    "Single_Quote": SINGLE_QUOTE,
    "Double_Quote": DOUBLE_QUOTE,
}


@cache
def folded() -> np.ndarray:
    r"""TABLE_SIZE uint32: for each code point 0 if it ends words whatever stands beside it, else its lower case and its kind.

    Kinds are Unicode's, by the library regex; what has none there and is of `\w` (Chinese characters, Hiragana, Thai, Lao,
    Khmer and Burmese letters, raised digits) is ALONE: a word of its own, with its marks. Where lower case is several code
    points the first is taken, and a capital sigma is never the final one: what stands beside a character changes nothing.
    """
    codes = [code for code in range(TABLE_SIZE) if not 0xD800 <= code < 0xE000]
    every, table = "".join(map(chr, codes)), np.zeros(TABLE_SIZE, dtype=np.uint32)
    for pattern, kind in ((r"\w", ALONE), *((rf"\p{{WB={value}}}", kind) for value, kind in KINDS.items())):
        for character in (re if kind == ALONE else regex).findall(pattern, every):
            table[ord(character)] = ord(character.lower()[0]) | kind << KIND_BITS
    return table


def digests_of(texts: pa.LargeStringArray) -> np.ndarray:
    """2 x N halves of the 128-bit digests (XXH3) of the texts."""
    data, edges = text_buffers(texts)
    view, ends = memoryview(data.data), edges.tolist()
    joined = b"".join(xxhash.xxh3_128_digest(view[a:b]) for a, b in zip(ends, ends[1:], strict=False))
    return np.ascontiguousarray(np.frombuffer(joined, dtype=">u8").astype(np.uint64).reshape(-1, 2).T)

"""Shingles and MinHash signatures, compiled, against plain Python."""

import re
from functools import cache
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.dedup.engine import compiled_shingles
from tasks.dedup.engine.code_points import folded
from tasks.dedup.engine.signing import Shingling, Signing

MASK = 2**64 - 1
BLOCK = compiled_shingles.BLOCK
letters = "ab_Z9 .-\n\xe9\xc9\xdf\u0130\u03a3\u0416\u4e2d\u0663\u2003\ud7ff\uffff\U00010400\U0001f600"
# Marks and joiners, what stands in the middle of words, and scripts that are written without spaces.
scripts = "a9_'.,:;\u2019\xb7\"\u05d0\u05d1\u05f4\u0301\u0915\u093e\u094d\u200c\u200d\xad\u30ab\u30fc\u3042\u4e2d\u0e01\u0e32\u0e34\xb2 "
# Letters for the values of Word_Break: the rules below are then those of UAX #29 as they are written there.
LETTER_OF = {
    "L": r"\p{WB=ALetter}", "H": r"\p{WB=Hebrew_Letter}", "N": r"\p{WB=Numeric}", "K": r"\p{WB=Katakana}",
    "J": r"\p{WB=ExtendNumLet}", "M": r"[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]", "l": r"\p{WB=MidLetter}",
    "n": r"\p{WB=MidNum}", "b": r"\p{WB=MidNumLet}", "s": r"\p{WB=Single_Quote}", "d": r"\p{WB=Double_Quote}",
}  # fmt: skip


@cache
def kind(character: str) -> str:
    """The letter of a character; A for what is of `\\w` and has none, a blank for what breaks words."""
    if ord(character) >= 0x20000:
        return "M" if ord(character) >= 0xE0000 else "A"
    found = (letter for letter, pattern in LETTER_OF.items() if regex.match(pattern, character))
    return next(found, "A" if re.match(r"\w", character) else " ")


def parted(k: str, at: int) -> bool:
    """Whether there is a word boundary before k[at]; k: letters of the characters that are no marks."""
    before, a, b, after = k[at - 2] if at > 1 else " ", k[at - 1], k[at], k[at + 1 : at + 2] or " "
    return not (
        (a in "LH" and b in "LH")  # WB5
        or (a in "LH" and b in "lbs" and after in "LH")  # WB6
        or (before in "LH" and a in "lbs" and b in "LH")  # WB7
        or (a + b == "Hs" or a + b + after == "HdH" or before + a + b == "HdH")  # WB7a, 7b, 7c
        or (a in "LHN" and b in "LHN")  # WB8, 9, 10
        or (before == "N" and a in "nbs" and b == "N")  # WB11
        or (a == "N" and b in "nbs" and after == "N")  # WB12
        or a + b == "KK"  # WB13
        or (a in "LHNKJ" and b == "J")  # WB13a
        or (a == "J" and b in "LHNK")  # WB13b
    )


def lowered(text: str) -> str:
    return "".join(character.lower()[0] if ord(character) < 0x20000 else character for character in text)


def words_of(text: str) -> list[str]:
    """What UAX #29 sets apart and holds a letter, number, joiner or character of its own, in lower case."""
    parts: list[str] = []
    for character in text:  # WB4
        if kind(character) == "M" and parts:
            parts[-1] += character
        elif kind(character) != "M":
            parts.append(character)
    k = "".join(kind(part[0]) for part in parts)
    edges = [0, *(at for at in range(1, len(k)) if parted(k, at)), len(k)]
    segments = ((k[a:b], "".join(parts[a:b])) for a, b in pairwise(edges))
    return [lowered(segment) for kinds, segment in segments if set(kinds) & set("LHNKJA")]


def units(text: str, by_character: bool) -> list[str]:
    if not by_character:
        return words_of(text)
    runs = "".join(lowered(c) if kind(c) in "LHNKJAM" else "\n" for c in text).split("\n")
    return list(" ".join(run for run in runs if run))


def reference(text: str, by_character: bool, size: int) -> set[tuple[str, ...]]:
    found = units(text, by_character)
    size = min(size, len(found))
    return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)} if found else set()


def mixed(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def hashed(shingle: tuple[str, ...], by_character: bool) -> int:
    """The hash that the compiled code documents, one number at a time."""
    total = 0
    for unit in shingle:
        value = ord(unit) if by_character else 0xCBF29CE484222325
        for character in "" if by_character else unit:
            value = (value ^ ord(character)) * 0xD6E8FEB86659FD93 & MASK
        total = (total * 0x9E3779B97F4A7C15 + value) & MASK
    return mixed(total)


def sets_of(texts: list[str], by_character: bool, size: int) -> list[np.ndarray]:
    sets, sizes = Shingling(by_character, size).sets(pa.array(texts, pa.large_string()))
    return np.split(sets, np.cumsum(sizes)[:-1]) if texts else []


@pytest.mark.parametrize("by_character", [False, True])
@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    st.lists(st.text(letters, max_size=40) | st.text(scripts, max_size=12) | st.text(max_size=20), max_size=5),
    st.integers(1, 6),
)
def test_shingle_sets_are_those_of_plain_python(by_character: bool, texts: list[str], size: int) -> None:
    for text, found in zip(texts, sets_of(texts, by_character, size), strict=True):
        expected = {hashed(shingle, by_character) for shingle in reference(text, by_character, size)}
        assert found.tolist() == sorted(expected)


@pytest.mark.parametrize("by_character", [False, True])
@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 4, BLOCK + 5, 3 * BLOCK + 1])
def test_a_text_of_several_blocks_loses_no_shingle(by_character: bool, length: int) -> None:
    text = " ".join(f"w{number}" for number in range(length)) + " . "
    text = text.replace(" ", "")[:length] if by_character else text
    (found,) = sets_of([text], by_character, 5)
    assert len(found) == len(reference(text, by_character, 5))


SENTENCES = {
    "Can't stop: 3.14 of 1,000 o'clock, e.g. example.com_x!": "can't stop 3.14 of 1,000 o'clock e.g example.com_x",
    "\u0930\u093e\u092e \u0915\u0947 \u092a\u093e\u0938 \u0918\u094b\u095c\u093e \u0939\u0948\u0964": "\u0930\u093e\u092e \u0915\u0947 \u092a\u093e\u0938 \u0918\u094b\u095c\u093e \u0939\u0948",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u0628\u0631\u0648\u0645\u061f": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u0628\u0631\u0648\u0645",
    "\u0ba4\u0bae\u0bbf\u0bb4\u0bcd \u0bae\u0bca\u0bb4\u0bbf": "\u0ba4\u0bae\u0bbf\u0bb4\u0bcd \u0bae\u0bca\u0bb4\u0bbf",
    "\u4e2d\u6587\u3001\u5b57": "\u4e2d \u6587 \u5b57",
    "\u30ab\u30bf\u30ab\u30ca\u306e\u8a9e": "\u30ab\u30bf\u30ab\u30ca \u306e \u8a9e",
    "\u0e01\u0e34\u0e19": "\u0e01\u0e34 \u0e19",
    "cafe\u0301 co\xadop": "cafe\u0301 co\xadop",
    "\u05e6\u05d4\"\u05dc": "\u05e6\u05d4\"\u05dc",
    "\U0001f600 fine \U0001f600": "fine",
}  # fmt: skip


@pytest.mark.parametrize("text", SENTENCES)
def test_words_of_several_scripts_worked_by_hand(text: str) -> None:
    expected = SENTENCES[text].split(" ")
    assert words_of(text) == expected
    assert sets_of([text], False, 1)[0].tolist() == sorted({hashed((word,), False) for word in expected})


@pytest.mark.parametrize("text", SENTENCES)
def test_the_library_regex_finds_the_same_words(text: str) -> None:
    """Its own segmentation, which goes other ways than UAX #29 after an apostrophe that no word stands before."""
    pieces = regex.split(r"(?w)\b", text)
    assert [lowered(p) for p in pieces if any(kind(c) in "LHNKJA" for c in p)] == words_of(text)


def test_the_table_of_characters_is_unicodes() -> None:
    for code in [*range(0x1000), 0x2028, 0x3042, 0x4E2D, 0xFFFF, 0x10400, 0x1F600]:
        entry, known = int(folded()[code]), kind(chr(code))
        assert (entry == 0) == (known == " "), hex(code)
        assert known == " " or entry & compiled_shingles.CODE == ord(lowered(chr(code))), hex(code)


def test_bytes_that_are_no_utf8_are_read_without_leaving_the_text() -> None:
    data = np.frombuffer(b"ab \xf0\x9f\xc3" + b"x" * 8, dtype=np.uint8)
    keys = compiled_shingles.signatures(
        data, np.array([0, 4, 5, 6]), folded(), False, 2, np.ones(4, np.uint32), np.ones(4, np.uint32)
    )
    assert keys.shape == (3, 4)


def test_similarities_are_estimated_without_bias() -> None:
    """2000 pairs of texts of 150 words at similarities of 0.1 to 0.95, 256 permutations: the mean error has a standard deviation
    of 0.5 / sqrt(256 * 2000) = 0.0007 at most."""
    generator = np.random.default_rng(3)
    left, right = [], []

    def plain(text: str) -> set[tuple[str, ...]]:
        words = text.split()  # of figures alone
        return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}

    for _ in range(2000):
        words = generator.integers(0, 10**6, size=150).astype(str)
        changed = words.copy()
        share = generator.uniform(0.005, 0.15)
        places = generator.random(150) < share
        changed[places] = generator.integers(0, 10**6, size=places.sum()).astype(str)
        left.append(" ".join(words))
        right.append(" ".join(changed))
    shingling = Shingling(False, 5)
    minima = [shingling.minima(pa.array(texts, pa.large_string()), 256) for texts in (left, right)]
    estimates = (minima[0] == minima[1]).mean(axis=1)
    exact = np.array([len(a & b) / len(a | b) for a, b in ((plain(x), plain(y)) for x, y in zip(left, right, strict=True))])  # fmt: skip
    assert exact.min() < 0.3 and exact.max() > 0.9
    errors = estimates - exact
    assert abs(errors.mean()) < 0.005
    for low in (0.0, 0.25, 0.5, 0.75):  # nor in any part of the range, where there are fewer pairs
        inside = (exact >= low) & (exact < low + 0.25)
        assert inside.sum() > 50 and abs(errors[inside].mean()) < 0.01
    assert errors.std() < 0.05


def test_a_text_without_words_has_no_shingles_and_the_key_of_all_such() -> None:
    texts = pa.array(["", "...", " \n", "a"], pa.large_string())
    keys = Signing(Shingling(False, 5), 3, 2, None).keys(texts)
    assert (keys[:, 0] == keys[:, 1]).all() and (keys[:, 0] == keys[:, 2]).all() and (keys[:, 0] != keys[:, 3]).all()


def test_the_minima_are_taken_in_vectors() -> None:
    import platform

    from numba import njit

    if platform.machine() != "x86_64":
        pytest.skip("the instructions are those of x86")
    vectors = np.zeros((4, 64), dtype=np.uint32)
    fresh = njit(nogil=True)(compiled_shingles.lower_minima.py_func)
    fresh(vectors[0], 64, vectors[1], vectors[2], vectors[3])
    (assembly,) = fresh.inspect_asm().values()
    for instruction in ("pmulld", "pminud"):
        assert re.search(rf"{instruction}\b.*%[xyz]mm", assembly), instruction

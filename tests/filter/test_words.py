"""Words by the rules of spaCy's English tokenizer: cases worked by hand, and nothing of a text is lost."""

from itertools import product

import numba
import numpy as np
import pytest
from hypothesis import given, settings

from tasks.filter.engine.contractions import specials, units
from tasks.filter.engine.words import english_words, tables
from tests.filter.documents import texts

CASES = {
    "I can't, don't and won't": "I ca n't , do n't and wo n't",
    "It's Mr. Smith's (U.S.) dog.": "It 's Mr. Smith 's ( U.S. ) dog .",
    "10km 5% $5 10am 20C$ 7kg.": "10 km 5 % $ 5 10 am 20 C$ 7 kg .",
    "wait... what?! no--yes well-known end.Start end.start": "wait ... what ? ! no -- yes well - known end . Start end.start",
    "http://a.example/x?y=z, me@b.org; a/b a=b 1-2 1/2": "http://a.example/x?y=z , me@b.org ; a / b a = b 1 - 2 1/2",
    ":) (8) :( o_O e.g. vs. etc.": ":) ( 8) :( o_O e.g. vs. etc .",
    "you\N{RIGHT SINGLE QUOTATION MARK}re \N{LEFT DOUBLE QUOTATION MARK}so\N{RIGHT DOUBLE QUOTATION MARK}": (
        "you \N{RIGHT SINGLE QUOTATION MARK}re \N{LEFT DOUBLE QUOTATION MARK} so \N{RIGHT DOUBLE QUOTATION MARK}"
    ),
    "a+b +5 + C++ #tag _x_ <b>": "a+b +5 + C++ # tag _ x _ < b >",
}


@pytest.mark.parametrize("text", CASES)
def test_cases_of_spacy(text: str) -> None:
    assert english_words(text) == CASES[text].split(" ")


@settings(deadline=None, max_examples=300, derandomize=True)
@given(texts)
def test_words_are_the_text_without_its_white_space(text: str) -> None:
    words = english_words(text)
    assert "".join(words) == "".join(text.split())
    assert not any(word.split() != [word] for word in words)


@pytest.fixture(scope="module")
def first_difference():
    """What finds the first of N chunks of W bytes, zeros at their ends, that is split otherwise by the steps for simple ones than
    by those for all; -1 where there is none."""
    from tasks.filter.engine.compiled_words import room_for, split, split_chunk

    @numba.njit
    def find(kinds, specials, data, width):
        chunk, ours = room_for(width + 1)
        theirs = ours.copy()
        for row in range(len(data) // width):
            first, last = row * width, row * width + width
            while data[last - 1] == 0:
                last -= 1
            count = split(kinds, specials, data, first, last, chunk, ours, 0)
            if count != split_chunk(kinds, specials, data, first, last, chunk, theirs, 0, True):
                return row
            if not (ours[:count] == theirs[:count]).all():
                return row
        return -1

    return find


def test_simple_words_are_split_as_all_are(first_difference) -> None:
    ascii_characters = [chr(code) for code in range(33, 127)]
    words = [
        *specials(),
        *units(),
        *(f"{number}{unit}" for number in (5, 10) for unit in units()),
        "a",
        "At",
        "ABC",
        "10",
    ]
    chunks = ["".join(pair) for pair in product(ascii_characters, repeat=2)]
    chunks += [word + mark for word, mark in product(words, ["", *ascii_characters])] + ascii_characters
    raw = [chunk.encode() for chunk in chunks]
    width = max(map(len, raw))
    data = np.frombuffer(b"".join(chunk.ljust(width, b"\0") for chunk in raw), np.uint8)
    differs = first_difference(*tables(), data, width)
    assert differs < 0, chunks[differs]

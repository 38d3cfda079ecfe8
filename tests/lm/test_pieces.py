"""Text by the token: put together it is what decode gives, up to a text that stops it, and no sooner nor later than it may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.pieces import Pieces
from lm.tokenizer import Tokenizer
from tests.lm.models import other_tokenizer, toy_tokenizer


@pytest.fixture(scope="module", params=["bytes", "merges"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    if request.param == "bytes":
        return toy_tokenizer()
    folder = tmp_path_factory.mktemp("other")
    other_tokenizer().save(str(folder / "tokenizer.json"))
    return Tokenizer.adopt(folder)


texts = st.text("ab\N{EURO SIGN}\N{GRINNING FACE}\N{REPLACEMENT CHARACTER} cat", max_size=12)
stops = st.lists(st.text("ab\N{EURO SIGN}t", min_size=1, max_size=3), max_size=4)


def ids_of(tokenizer: Tokenizer, text: str, places: list[int]) -> list[int]:
    """Tokens of the text with some left out, so that characters are torn, and special ones put in."""
    ids = tokenizer.encode(text)
    for place in places:
        ids[place : place + 1] = [tokenizer.eos_id] if place % 2 else []
    return ids


@given(texts, st.lists(st.integers(0, 12), max_size=3))
def test_put_together_it_is_what_decode_gives(tokenizer: Tokenizer, text: str, places: list[int]) -> None:
    ids, pieces = ids_of(tokenizer, text, places), Pieces(tokenizer)
    assert "".join([*map(pieces.add, ids), pieces.end()]) == tokenizer.decode(ids) and not pieces.stopped


@given(texts, st.lists(st.integers(0, 12), max_size=3), stops)
def test_it_ends_before_the_first_text_that_stops_it(
    tokenizer: Tokenizer, text: str, places: list[int], stops: list[str]
) -> None:
    ids, pieces = ids_of(tokenizer, text, places), Pieces(tokenizer, stops)
    found, whole = "".join([*map(pieces.add, ids), pieces.end()]), tokenizer.decode(ids)
    assert pieces.stopped == any(stop in whole for stop in stops)
    assert not any(stop in found for stop in stops)
    if pieces.stopped:
        assert whole.startswith(tuple(found + stop for stop in stops))
        assert pieces.add(tokenizer.encode("a")[0]) == pieces.end() == ""
    else:
        assert found == whole


def test_of_two_that_stop_it_in_one_token_the_first_counts(tokenizer: Tokenizer) -> None:
    ids, pieces = tokenizer.encode(" cat"), Pieces(tokenizer, ["t", "a"])
    assert len(ids) in (1, 4)
    assert "".join(map(pieces.add, ids)) == " c" and pieces.stopped


def test_a_character_is_said_when_it_is_whole_and_what_may_stop_when_it_may_not() -> None:
    tokenizer = toy_tokenizer()  # a byte a token

    def said(text: str, stops: list[str]) -> list[str]:
        pieces = Pieces(tokenizer, stops)
        return [*map(pieces.add, tokenizer.encode(text)), pieces.end()]

    assert said("a\N{EURO SIGN}b", []) == ["a", "", "", "\N{EURO SIGN}", "b", ""]
    assert said("a.b..", ["..."]) == ["a", "", ".b", "", "", ".."]
    assert said("a.b...c", ["..."]) == ["a", "", ".b", "", "", "", "", ""]
    assert said("xabc", ["bc", "ab"]) == ["x", "", "", "", ""]
    assert said("aab", ["ab"]) == ["", "a", "", ""]

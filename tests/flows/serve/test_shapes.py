"""What answers look like: events of a line each, and where tokens begin and what they are called."""

import json
from itertools import chain
from typing import Any, NamedTuple

import pytest
from tokenizers import pre_tokenizers

from flows.serve.generation import Piece
from flows.serve.requests import GenerationRequest
from flows.serve.shapes import Shape, event
from flows.serve.token_text import ALPHABET, token_bytes
from tests.flows.serve.api import NAME, toy

_, TOKENIZER = toy()


@pytest.mark.parametrize("text", ["one\x85two", "one\u2028two", "\N{EURO SIGN}"])
def test_an_event_is_a_line_to_clients_that_take_other_characters_for_ends_of_lines(text: str) -> None:
    said, empty = event({"text": text}).splitlines()
    assert json.loads(said.removeprefix("data: ")) == {"text": text} and not empty


class Said(NamedTuple):
    """What the writer says of one token."""

    id: int
    logp: float
    likeliest: list[tuple[int, float]]
    last: bool = False


@pytest.mark.parametrize("streamed", [False, True])
def test_tokens_of_a_character_begin_where_it_does_and_have_names_of_their_own(streamed: bool) -> None:
    text = "a\N{EURO SIGN}\u65e5b"
    ids = TOKENIZER.encode(text)
    likeliest = [(index, -float(place)) for place, index in enumerate(TOKENIZER.encode("\N{EURO SIGN}a"), 1)]
    tokens: list[Any] = [Said(index, -1.0, likeliest) for index in [*ids, TOKENIZER.end_id]]
    asked = GenerationRequest([[1]], 1, 20, 0.0, None, [], 4, streamed, False)
    shape = Shape(asked, NAME, TOKENIZER, False)
    if streamed:
        made = [shape.chunk(Piece(0, "", some, None)) for some in (tokens[:2], tokens[2:5], tokens[5:])]
    else:
        made = [shape.whole([Piece(0, text, tokens, "stop")])]
    parts = [one["choices"][0]["logprobs"] for one in made]
    assert list(chain.from_iterable(part["text_offset"] for part in parts)) == [0, 1, 1, 1, 2, 2, 2, 3, 4]
    names = list(chain.from_iterable(part["tokens"] for part in parts))
    assert names == [
        "a", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", "bytes:\\xe6", "bytes:\\x97", "bytes:\\xa5", "b", "<|end|>",
    ]  # fmt: skip
    expected = {"bytes:\\xe2": -1.0, "bytes:\\x82": -2.0, "bytes:\\xac": -3.0, "a": -4.0}
    assert parts[0]["top_logprobs"][0] == expected


def test_of_tokens_of_one_name_the_likelier_counts() -> None:
    named = Shape(GenerationRequest([[1]], 1, 20, 0.0, None, [], 4, False, False), NAME, TOKENIZER, False)._named
    index = TOKENIZER.encode("a")[0]
    assert named([(index, -1.0), (index, -2.0)]) == {"a": -1.0}


def test_bytes_are_those_that_the_alphabet_and_byte_fallback_write() -> None:
    assert set(ALPHABET) == set(pre_tokenizers.ByteLevel.alphabet()) and sorted(ALPHABET.values()) == list(range(256))
    for index, byte in ((TOKENIZER.encode("\N{EURO SIGN}")[0], b"\xe2"), (TOKENIZER.encode(" ")[0], b" ")):
        assert token_bytes(TOKENIZER.token(index)) == byte
    assert token_bytes("<0xE2>") == b"\xe2" and token_bytes("\u2581a") is None

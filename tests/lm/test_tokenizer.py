"""The contract of the tokenizer: every text round-trips, and no text can spell a special token."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import methods_of
from lm.tokenizer import SPECIALS, Tokenizer
from tasks.tokenize import methods

CORPUS = ["the cat sat on the mat, 12 + 34 = 46\n", "def f(x):\n    return x ** 2\n"] * 50
TOKENIZERS = {m.__name__: m()(iter(CORPUS)) for m in methods_of(methods)}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.one_of(st.text(), st.lists(st.sampled_from([*SPECIALS, "a", " ", "9"])).map("".join)))
def test_every_text_round_trips_and_spells_no_special_token(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(len(SPECIALS) <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.encode_batch([text, "x"])[0] == ids


@pytest.mark.parametrize("name", TOKENIZERS)
def test_conversations_and_special_ids(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.end_id) == (0, 1, 4)
    assert tokenizer.chat("<|end|>") == [2, *tokenizer.encode("<|end|>"), 3]
    assert tokenizer.decode([0, 2, *tokenizer.encode("hi"), 4]) == "hi"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_saved_and_loaded_is_the_same(name: str, tmp_path: Path) -> None:
    TOKENIZERS[name].save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode(CORPUS[0] + "<|pad|>") == TOKENIZERS[name].encode(CORPUS[0] + "<|pad|>")
    assert loaded.vocab_size == TOKENIZERS[name].vocab_size


def test_digits_are_encoded_one_by_one() -> None:
    assert len(TOKENIZERS["Bpe"].encode("123456")) == 6


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer.json: no such file"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer.json: not a tokenizer file"):
        Tokenizer.load(tmp_path)
    TOKENIZERS["Bytes"].save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace("<|pad|>", "<|fill|>"))
    with pytest.raises(ValueError, match=r"tokenizer.json: the tokens 0 to 4 must be .*<\|pad\|> is missing"):
        Tokenizer.load(tmp_path)

"""The adopted encoder makes the ids of `tokenizers`, or it is not used and the reason is said."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, normalizers, pre_tokenizers

from lm.tokenizer import SPECIALS, Tokenizer
from tasks.tokenize.encoder import PROBES, Encoder, Gigatoken, HuggingFace, why_not_gigatoken
from tasks.tokenize.methods import Bpe, Bytes
from tests.lm.models import other_tokenizer
from tests.real_text import REAL_TEXT, on_real_text

CORPUS = [
    "The cat's mat, 12 + 34 = 46.\r\n",
    "def f(x):\n    return x ** 2\n",
    "na\u00efve caf\u00e9 \u4f60\u597d",
] * 20
TOKENIZERS = {"bpe": Bpe(vocab_size=600)(iter(CORPUS + PROBES), Path()), "bytes": Bytes()(iter(()), Path())}
ENCODERS = {name: (Gigatoken(t.to_json()), HuggingFace(t.to_json())) for name, t in TOKENIZERS.items()}
NONE = pa.array([], pa.large_string())
# every kind that a division into words or a cache of words could get wrong, beside plain text of any script
AWKWARD = st.sampled_from(
    [*SPECIALS, *PROBES, "\r", "\n", " ", "\t", "'s", "\u0301", "\u200d", "\U0001f468", "x" * 999, "9", "<|"]
)
CONTROLS = st.characters(codec="utf-8", exclude_characters="\0")


def ids_of(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    ids, offsets = encoder(pa.array(texts, pa.large_string()))
    assert len(offsets) == len(texts) + 1 and offsets[-1] == len(ids)
    return [part.tolist() for part in np.split(ids, offsets[1:-1])]


@pytest.mark.parametrize("name", ENCODERS)
@settings(deadline=None, max_examples=120, derandomize=True)
@given(
    st.lists(
        st.one_of(st.text(CONTROLS), st.lists(st.one_of(AWKWARD, st.text(CONTROLS, max_size=3))).map("".join)),
        min_size=1,
    )
)
def test_ids_are_those_of_tokenizers_and_decode_to_the_text(name: str, texts: list[str]) -> None:
    fast, slow = ENCODERS[name]
    ids = ids_of(fast, texts)
    assert ids == ids_of(slow, texts)
    assert [TOKENIZERS[name].decode(some) for some in ids] == texts
    assert not {i for some in ids for i in some} & set(TOKENIZERS[name].contract.specials.values())


def test_every_character_is_divided_as_tokenizers_does() -> None:
    """All assigned planes and every 64th code point of the others, in several neighbourhoods: tables of different versions
    of Unicode would be found out."""
    fast, slow = ENCODERS["bpe"]
    assigned = [*range(1, 0xD800), *range(0xE000, 0x33500), *range(0xE0000, 0xE0200)]
    characters = map(chr, [*assigned, *range(0x33500, 0x110000, 64)])
    texts = [f"a{c}b {c}1{c}{c}\n" for c in characters]
    joined = ["".join(texts[start : start + 64]) for start in range(0, len(texts), 64)]
    assert ids_of(fast, joined) == ids_of(slow, joined)


@on_real_text
def test_ids_of_real_text_are_those_of_tokenizers() -> None:
    """Every 16th row of all files, for the speed of `tokenizers`."""
    texts = []
    for path in sorted(REAL_TEXT.rglob("*.jsonl.gz")):
        with gzip.open(path, "rt") as file:
            texts += [" ".join(map(str, json.loads(line).values())) for line in list(file)[::16]]
    tokenizer = Bpe(vocab_size=4096)(iter(texts[::10]), Path())
    assert why_not_gigatoken(tokenizer.to_json(), pa.array(texts, pa.large_string())) == ""


def test_our_tokenizers_are_encoded_by_gigatoken() -> None:
    assert [why_not_gigatoken(t.to_json(), pa.array(CORPUS, pa.large_string())) for t in TOKENIZERS.values()] == [
        "",
        "",
    ]


def test_slices_and_no_texts() -> None:
    texts = pa.array([*CORPUS, "", "x"], pa.large_string())
    for encoder in ENCODERS["bpe"]:
        ids, offsets = encoder(texts.slice(58, 4))
        assert np.diff(offsets).tolist()[2:] == [0, 1] and len(ids) == offsets[-1] and offsets[0] == 0
        assert [len(found) for found in encoder(NONE)] == [0, 1]


def changed(**parts: object) -> str:
    inner = tokenizers.Tokenizer.from_str(TOKENIZERS["bpe"].to_json())
    for name, part in parts.items():
        setattr(inner, name, part)
    return Tokenizer(inner).to_json()


def test_what_gigatoken_does_not_know_or_gets_wrong_is_said() -> None:
    halves = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("a|b"), "isolated"), pre_tokenizers.ByteLevel(use_regex=False)]
    )
    assert "gigatoken does not know it: Unknown pre_tokenizer" in why_not_gigatoken(changed(pre_tokenizer=halves), NONE)
    assert "gigatoken does not know it" in why_not_gigatoken(changed(normalizer=normalizers.Lowercase()), NONE)
    # no division into words at all, which it takes for GPT-2's
    whole = changed(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    assert "gigatoken makes other tokens of" in why_not_gigatoken(whole, pa.array(CORPUS, pa.large_string()))


def test_the_tokenizer_of_another_model_is_encoded_as_it_would(tmp_path: Path) -> None:
    other_tokenizer().save(str(tmp_path / "tokenizer.json"))
    adopted = Tokenizer.adopt(tmp_path)
    texts = [*CORPUS, *PROBES]
    assert why_not_gigatoken(adopted.to_json(), pa.array(texts, pa.large_string())) == ""
    assert ids_of(Gigatoken(adopted.to_json()), texts) == adopted.encode_batch(texts)


def test_forgetting_words_changes_no_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.tokenize.encoder.FORGET_AFTER", 100)
    assert [ids_of(ENCODERS["bpe"][0], CORPUS) for _ in range(3)] == [ids_of(ENCODERS["bpe"][1], CORPUS)] * 3

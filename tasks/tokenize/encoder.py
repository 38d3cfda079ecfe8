"""From columns of text to token ids: by gigatoken where it makes the ids that `tokenizers` makes, else by `tokenizers`.

gigatoken (M. Roed, 2026) divides text into words without regular expressions and remembers the ids of words, at some
hundred times the speed; it knows the divisions of the usual model families, and tokenizer.json stays the one description.
"""

import json
import os
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import tokenizers

from lm.tokenizer import SPECIALS, Tokenizer
from tasks.core.process import threads
from tasks.core.texts import text_buffers

# What gigatoken remembers of words grows by 100 bytes a word, so it begins anew after as many bytes of text.
FORGET_AFTER = 256 << 20
# What tokenizers could disagree on: specials in text, white space, line ends, scripts, marks, emoji, digits, controls.
PROBES = [
    "",
    " ",
    *SPECIALS,
    f"a{SPECIALS[1]}b {''.join(SPECIALS)} <| |> <|endoftext",
    "line\r\nline\n\n\r\r \t \n  x\x0b\x0c\x85\u2028\u2029\u00a0\u3000 end  ",
    "I'm we'LL they'Re 'S 'dog don\u2019t O'Reilly",
    "1 12 123 1234567 3.14 \u0661\u0662\u0663 \u00bd \u2167 x\u00b2",
    "e\u0301 a\u0308\u0323 \u0915\u094d\u0937\u093f \u0e01\u0e33 \u200d\u200c \ufeff \ufffd \u00df \u0130 \u0131",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \U0001f44d\U0001f3fd \u2764\ufe0f \U0001f999",
    "\u4f60\u597d\uff0c\u4e16\u754c \u3053\u3093\u306b\u3061\u306f \uc548\ub155 \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc",
    "def f(x):\n\treturn x ** 2  # [{(<->)}] $%^&*_+=~`|\\/ https://a.b/c?d=e&f",
    "\x01\x02\x1b[0m\x7f",
    "word" * 300 + " " * 300 + "." * 300 + "\n" * 300,
]


class Encoder(Protocol):
    """`texts -> (ids, offsets)`: the ids of text n are ids[offsets[n] : offsets[n + 1]], special tokens not among them but for
    those that the tokenizer has around every text."""

    def __call__(self, texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]: ...


class Gigatoken:
    """Raises RuntimeError where gigatoken does not know what a tokenizer.json asks for."""

    def __init__(self, tokenizer_json: str) -> None:
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads()))  # its pool reads this once
        described = json.loads(tokenizer_json)
        # a special token that is not listed as one is plain text, which is what it is in a document
        described["added_tokens"] = [token for token in described["added_tokens"] if not token["special"]]
        self._description = json.dumps(described)
        self._begin()

    def _begin(self) -> None:
        from gigatoken.gigatoken_rs import load_hf_json

        self._inner, self._seen = load_hf_json(self._description), 0

    def __call__(self, texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
        if self._seen > FORGET_AFTER:
            self._begin()
        characters, offsets = text_buffers(texts)
        self._seen += int(offsets[-1] - offsets[0])
        encoded = self._inner.encode_batch(awkward_strings(offsets, characters), parallel=threads() > 1).layout
        return encoded.content.data, np.asarray(encoded.offsets.data)


class HuggingFace:
    """The library `tokenizers` itself."""

    def __init__(self, tokenizer_json: str) -> None:
        self._tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(tokenizer_json))

    def __call__(self, texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
        encoded = [np.array(ids, dtype=np.uint32) for ids in self._tokenizer.encode_batch(texts.to_pylist())]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return np.concatenate([np.zeros(0, dtype=np.uint32), *encoded]), offsets


class Around:
    """An encoder whose texts have ids before and after them."""

    def __init__(self, inner: Encoder, before: list[int], after: list[int]) -> None:
        self._inner, self._before, self._after = inner, before, after

    def __call__(self, texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
        ids, offsets = self._inner(texts)
        more = len(self._before) + len(self._after)
        bounds = offsets + more * np.arange(len(offsets), dtype=np.int64)
        found = np.empty(len(ids) + more * len(texts), dtype=ids.dtype)
        inside = np.ones(len(found), dtype=bool)
        for place, index in enumerate(self._before):
            found[bounds[:-1] + place], inside[bounds[:-1] + place] = index, False
        for place, index in enumerate(self._after, -len(self._after)):
            found[bounds[1:] + place], inside[bounds[1:] + place] = index, False
        found[inside] = ids
        return found, bounds


ENCODERS: dict[str, Any] = {"gigatoken": Gigatoken, "tokenizers": HuggingFace}


@lru_cache(maxsize=1)
def encoder(name: str, tokenizer_json: str) -> Encoder:
    """The encoder of this process, kept from one shard to the next with the words that it remembers."""
    made, tokenizer = ENCODERS[name](tokenizer_json), Tokenizer(tokenizers.Tokenizer.from_str(tokenizer_json))
    return Around(made, tokenizer.before, tokenizer.after) if tokenizer.before or tokenizer.after else made


def why_not_gigatoken(tokenizer_json: str, texts: pa.LargeStringArray) -> str:
    """What speaks against gigatoken: that it refuses the tokenizer, or the first text or probe of which it makes other ids
    than `tokenizers`; "" where nothing does."""
    try:
        fast = Gigatoken(tokenizer_json)
    except RuntimeError as error:
        return f"gigatoken does not know it: {str(error).splitlines()[0]}"
    slow = HuggingFace(tokenizer_json)
    for some in (pa.array(PROBES, pa.large_string()), texts):
        (ids, offsets), (wanted, bounds) = fast(some), slow(some)
        if not (np.array_equal(ids, wanted) and np.array_equal(offsets, bounds)):
            pairs = zip(np.split(ids, offsets[1:-1]), np.split(wanted, bounds[1:-1]), strict=True)
            text = next(some[row].as_py() for row, pair in enumerate(pairs) if not np.array_equal(*pair))
            return f"gigatoken makes other tokens of {text[:40]!r}"
    return ""


def awkward_strings(offsets: np.ndarray, characters: np.ndarray) -> Any:
    """Strings as awkward holds them, which is how gigatoken takes and returns columns; nothing is copied."""
    import awkward
    from awkward.contents import ListOffsetArray, NumpyArray
    from awkward.index import Index64

    content = NumpyArray(characters, parameters={"__array__": "char"})
    return awkward.Array(ListOffsetArray(Index64(offsets), content, parameters={"__array__": "string"}))

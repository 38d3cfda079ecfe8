"""A tokenizer as a GGUF file has it: byte-level BPE, whose division into words has a name that readers know."""

import json
from dataclasses import dataclass
from typing import Any

from lm.tokenizer import WORDS, Tokenizer

# Kinds of tokens, as llama.cpp numbers them.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
BYTES = {"type": "ByteLevel", "add_prefix_space": False}
# What a BPE of `tokenizers` may say of itself and still be the one of GPT-2, which readers of GGUF have.
PLAIN: dict[str, tuple[Any, ...]] = {
    "type": ("BPE",), "dropout": (None, 0.0), "byte_fallback": (False, None), "ignore_merges": (False, None),
    "continuing_subword_prefix": (None, ""), "end_of_word_suffix": (None, ""),
}  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """pre: name of the division into words. tokens and kinds: of every id. merges: pairs with a space between, first those that
    are made first. begin: the token before every text, None where there is none; end: the one that ends an answer."""

    pre: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    begin: int | None
    end: int
    pad: int
    template: str

    @classmethod
    def of(cls, tokenizer: Tokenizer, vocab_size: int) -> "Vocabulary":
        """The vocabulary of a model with rows for so many tokens. Raises ValueError for a tokenizer that GGUF cannot say."""
        described = json.loads(tokenizer.to_json())
        bpe = described["model"]
        for key, plain in PLAIN.items():
            if bpe.get(key, plain[-1]) not in plain:
                raise ValueError(f"GGUF has no tokenizer with {key} {bpe[key]!r}: byte-level BPE alone is written")
        if described.get("normalizer"):
            raise ValueError(
                f"GGUF has no tokenizer with a normalizer, and this one has {described['normalizer']['type']}"
            )
        if not bpe["merges"]:
            raise ValueError("GGUF has no tokenizer without merges: take a model whose tokenizer is bpe")
        if len(tokenizer.before) > 1 or tokenizer.after:
            raise ValueError("GGUF has at most one token before a text, and none behind it")
        pre = name_of_words(described["pre_tokenizer"])
        tokens = [f"[PAD{index}]" for index in range(vocab_size)]
        kinds = [UNUSED] * vocab_size
        for token, index in bpe["vocab"].items():
            tokens[index], kinds[index] = token, NORMAL
        for added in described["added_tokens"]:
            tokens[added["id"]], kinds[added["id"]] = added["content"], CONTROL if added["special"] else USER_DEFINED
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]]
        begin = tokenizer.before[0] if tokenizer.before else None
        return cls(pre, tokens, kinds, merges, begin, tokenizer.end_id, tokenizer.pad_id, tokenizer.template.text)


def name_of_words(described: dict[str, Any] | None) -> str:
    """The name that llama.cpp has for a pre-tokenizer of `tokenizers`. Raises ValueError where it has none."""
    steps = (described or {}).get("pretokenizers", [described or {}])
    last = {key: value for key, value in steps[-1].items() if key != "trim_offsets"}
    if len(steps) == 1 and last == {**BYTES, "use_regex": True}:
        return "gpt-2"
    if len(steps) == 2 and last == {**BYTES, "use_regex": False}:
        split = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
        if steps[0] == split:
            return "qwen2"
    raise ValueError("GGUF has no name for the way in which the tokenizer divides a text into words")

"""The tokenizer of a model, with the special tokens of conversations; ours are byte-level, so every text round-trips."""

from pathlib import Path

import tokenizers

EOS, PAD, USER, ASSISTANT, END = SPECIALS = ["<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"]


class Tokenizer:
    """Wraps a `tokenizers.Tokenizer` that has the special tokens, at whatever ids; in ours they are 0 to 4.

    Special tokens never come out of text: a text that spells one is encoded as the characters it is made of.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        missing = [name for name in SPECIALS if inner.token_to_id(name) is None]
        if missing:
            raise ValueError(f"the special tokens are {' '.join(SPECIALS)}; {missing[0]} is missing")
        ids = [inner.get_vocab()[name] for name in SPECIALS]
        self.eos_id, self.pad_id, self.user_id, self.assistant_id, self.end_id = ids
        inner.encode_special_tokens = True
        self._inner = inner

    @property
    def vocab_size(self) -> int:
        """The largest id and one more: what an embedding must have rows for."""
        return max(self._inner.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._inner.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """The text; special tokens are left out, and bytes that are no UTF-8 become U+FFFD."""
        return self._inner.decode(ids, skip_special_tokens=True)

    def chat(self, prompt: str) -> list[int]:
        """The ids of a conversation that awaits its answer; the answer is to end with end_id."""
        return [self.user_id, *self.encode(prompt), self.assistant_id]

    def save(self, folder: Path) -> None:
        """Write folder/tokenizer.json."""
        (folder / "tokenizer.json").write_text(self._inner.to_str(pretty=True) + "\n", encoding="utf-8")

    def __eq__(self, other: object) -> bool:
        """Whether both make the same tokens of every text."""
        return isinstance(other, Tokenizer) and self._inner.to_str() == other._inner.to_str()

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read folder/tokenizer.json. Raises ValueError naming the file when it is missing or not one of ours."""
        inner = _read(folder / "tokenizer.json")
        try:
            return cls(inner)
        except ValueError as error:
            raise ValueError(f"{folder / 'tokenizer.json'}: {error}") from None

    @classmethod
    def adopt(cls, folder: Path) -> "Tokenizer":
        """Read another model's folder/tokenizer.json; special tokens that it lacks come after all it has.

        Raises ValueError naming the file when it is missing or no tokenizer.
        """
        inner = _read(folder / "tokenizer.json")
        inner.no_truncation()
        inner.no_padding()
        inner.add_special_tokens([name for name in SPECIALS if inner.token_to_id(name) is None])
        return cls(inner)


def _read(path: Path) -> tokenizers.Tokenizer:
    if not path.exists():
        raise ValueError(f"{path}: no such file; has what writes it run?")
    try:
        return tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # `tokenizers` raises bare Exception for a file it cannot parse
        raise ValueError(f"{path}: not a tokenizer file: {error}") from None

"""The tokenizer of a model: byte-level, so every text round-trips, with the special tokens of conversations."""

from pathlib import Path

import tokenizers

EOS, PAD, USER, ASSISTANT, END = SPECIALS = ["<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"]


class Tokenizer:
    """Wraps a `tokenizers.Tokenizer` whose ids 0 to 4 are the special tokens.

    Special tokens never come out of text: a text that spells one is encoded as the characters it is made of.
    """

    eos_id, pad_id, user_id, assistant_id, end_id = range(5)

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        wrong = [name for index, name in enumerate(SPECIALS) if inner.id_to_token(index) != name]
        if wrong:
            raise ValueError(f"the tokens 0 to 4 must be {' '.join(SPECIALS)}; {wrong[0]} is missing or elsewhere")
        inner.encode_special_tokens = True
        self._inner = inner

    @property
    def vocab_size(self) -> int:
        return self._inner.get_vocab_size()

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

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read folder/tokenizer.json. Raises ValueError naming the file when it is missing or not one of ours."""
        path = folder / "tokenizer.json"
        if not path.exists():
            raise ValueError(f"{path}: no such file; has the stage that writes it run?")
        try:
            return cls(tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        except Exception as error:  # `tokenizers` raises bare Exception for a file it cannot parse
            raise ValueError(f"{path}: not a tokenizer file: {error}") from None

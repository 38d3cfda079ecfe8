"""The tokenizer of a model, with the special tokens of conversations; ours are byte-level, so every text round-trips."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from lm.chat_template import FILES, OURS, ChatTemplate, named_token
from lm.config import ConfigError
from lm.files import write_json, write_text
from lm.hugging_face.folder import advice

EOS, PAD, USER, ASSISTANT, END = SPECIALS = ["<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"]
# Qwen 2's division into words: GPT-4's, with digits one by one, so that numbers are written in place value.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# One turn of a conversation, where the template is ours: what contracts say of it.
TURN = USER + "{prompt}" + ASSISTANT + "{answer}" + END


@dataclass(frozen=True)
class Contract:
    """What corpus, model and conversations must agree on: how text becomes ids, and what the ids of special tokens are.

    The tokenize stage writes it beside tokenizer.json, and each model carries it in its config.json.
    """

    specials: dict[str, int]
    vocab_size: int
    turn: str
    tokenizer_sha256: str

    def check(self, other: Any, where: str) -> None:
        """Raise ValueError, naming what differs, where `other`, as read from JSON, is not this contract."""
        mine, theirs = asdict(self), other if isinstance(other, dict) else {}
        differing = [name for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)]
        if differing:
            said = "; ".join(f"{name} is {theirs.get(name)!r}, here {mine.get(name)!r}" for name in differing)
            raise ValueError(
                f"{where}: made for another tokenizer than the tokenizer.json that is used with it: {said}"
            )


class Tokenizer:
    """Wraps a `tokenizers.Tokenizer` that has the special tokens, at whatever ids; in ours they are 0 to 4.

    Special tokens never come out of text: a text that spells one is encoded as the characters it is made of. before, after: ids
    that somebody else's has around a text, without the end that we put there; a document is before, its text, after, eos_id.
    template: how conversations are written, its model's own or ours; own_template: whether it is another's than ours.
    """

    def __init__(self, inner: tokenizers.Tokenizer, text: str = "", template: ChatTemplate | None = None) -> None:
        """text: the tokenizer.json that it was read from, which then stays as it is in whatever format it was written. Raises
        ValueError where a special token is missing."""
        missing = [name for name in SPECIALS if inner.token_to_id(name) is None]
        if missing:
            raise ValueError(f"the special tokens are {' '.join(SPECIALS)}; {missing[0]} is missing")
        vocabulary = inner.get_vocab()
        ids = [vocabulary[name] for name in SPECIALS]
        self.eos_id, self.pad_id, self.user_id, self.assistant_id, self._our_end_id = ids
        inner.encode_special_tokens = True
        self._inner, self._text = inner, text
        around = inner.encode("a")  # what its post-processor puts around a text, such as a token for the beginning
        inside = [n for n, special in enumerate(around.special_tokens_mask) if not special]
        first, end = (inside[0], inside[-1] + 1) if inside else (len(around.ids), len(around.ids))
        self.before, self.after = around.ids[:first], around.ids[end:]
        if self.after[-1:] == [self.eos_id]:
            self.after.pop()
        self.own_template, self.template = template is not None, template or ChatTemplate(OURS)

    @property
    def vocab_size(self) -> int:
        """The largest id and one more: what an embedding must have rows for."""
        return max(self._inner.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def end_id(self) -> int:
        """The token that ends an answer: of a template that is not ours, the first control token that it puts behind one.
        Raises ConfigError where it puts none there."""
        if not self.own_template:
            return self._our_end_id
        answer = "xyzzy"
        written = self.template.render(
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]
        ).text
        behind = written.rfind(answer) + len(answer)
        controls = {self._inner.token_to_id(name) for name in self._controls}
        for index, (start, _) in zip(*self.encode_written(written), strict=True):
            if start >= behind and index in controls:
                return index
        raise ConfigError(
            "the chat template puts no control token behind an answer, so that no answer would end: put one there in "
            "the model's chat_template.jinja"
        )

    @property
    def contract(self) -> Contract:
        ids = [self.eos_id, self.pad_id, self.user_id, self.assistant_id, self._our_end_id]
        digest = sha256(self.to_json().encode()).hexdigest()
        turn = self.template.digest if self.own_template else TURN
        return Contract(dict(zip(SPECIALS, ids, strict=True)), self.vocab_size, turn, digest)

    def to_json(self) -> str:
        """What tokenizer.json holds, in the format of Hugging Face."""
        return self._text or self._inner.to_str(pretty=True) + "\n"

    def encode(self, text: str) -> list[int]:
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._inner.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """The text; special tokens are left out, and bytes that are no UTF-8 become U+FFFD."""
        return self._inner.decode(ids, skip_special_tokens=True)

    def spell(self, ids: list[int]) -> str:
        """The text with its special tokens spelled out."""
        return self._inner.decode(ids, skip_special_tokens=False)

    def chat(self, prompt: str) -> list[int]:
        """The ids of a conversation that awaits its answer; the answer is to end with end_id. Raises ConfigError, which names
        the prompt, for one that spells a control token of a template that is not ours, or that it refuses."""
        if not self.own_template:
            return [self.user_id, *self.encode(prompt), self.assistant_id]
        if name := self.spelled(prompt):
            raise ConfigError(
                f"a prompt spells the control token {name}, which would end its turn; leave it out: {prompt[:80]!r}"
            )
        try:
            written = self.template.render([{"role": "user", "content": prompt}], awaiting=True)
        except ValueError as error:
            raise ConfigError(f"a prompt cannot be asked: {error}; leave it out: {prompt[:80]!r}") from None
        return self.encode_written(written.text)[0]

    def spelled(self, text: str) -> str | None:
        """A control token that the text spells; None where there is none."""
        return next((name for name in self._controls if name in text), None)

    def encode_written(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """(ids, [start, end) of each in characters) of a text that a template has written: what spells a control token is
        it."""
        found = self._with_controls.encode(text, add_special_tokens=False)
        return found.ids, found.offsets

    def save(self, folder: Path) -> None:
        """Write folder/tokenizer.json, and beside it chat_template.jinja where the template is not ours."""
        (folder / "tokenizer.json").write_text(self.to_json(), encoding="utf-8")
        if self.own_template:
            write_text(folder / FILES[0], self.template.text)

    def save_contract(self, folder: Path) -> None:
        """Write folder/contract.json, which load() then holds tokenizer.json to."""
        write_json(folder / "contract.json", asdict(self.contract))

    def token(self, index: int) -> str:
        """What the vocabulary writes for an id."""
        return str(self._inner.id_to_token(index))

    def __eq__(self, other: object) -> bool:
        """Whether both make the same tokens of every text, and of every conversation."""
        if not isinstance(other, Tokenizer) or self.template.text != other.template.text:
            return False
        return self._inner.to_str() == other._inner.to_str()

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def _with_controls(self) -> tokenizers.Tokenizer:
        """Tokenizer of the same vocabulary to which a text can spell control tokens."""
        made = tokenizers.Tokenizer.from_str(self.to_json())
        made.encode_special_tokens = False
        return made

    @cached_property
    def _controls(self) -> list[str]:
        return [token.content for token in self._inner.get_added_tokens_decoder().values() if token.special]

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read folder/tokenizer.json. Raises ValueError naming the file when it is missing, not one of ours, or not the one
        that folder/contract.json, where there is one, was written for."""
        path, promised = folder / "tokenizer.json", folder / "contract.json"
        inner, text = _read(path)
        try:
            found = cls(inner, text, ChatTemplate.adopt(folder, {}))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if promised.exists():
            found.contract.check(_read_json(promised), str(promised))
        return found

    @classmethod
    def adopt(cls, folder: Path) -> "Tokenizer":
        """Read another model's folder/tokenizer.json; special tokens that it lacks come after all it has. `before` and `after`
        are what its post-processor puts around a text: as in transformers 5, add_bos_token and add_eos_token of
        tokenizer_config.json say nothing beside a tokenizer.json. Conversations are written by the folder's chat template,
        where it has one.

        Raises ValueError naming the file when it is missing, no tokenizer, or one whose texts can spell a control token.
        """
        path = folder / "tokenizer.json"
        inner, _ = _read(path)
        inner.no_truncation()
        inner.no_padding()
        described = _config_of(folder)
        begin, end = named_token(described, "bos_token"), named_token(described, "eos_token")
        controls = [name for name in (*SPECIALS, begin, end) if name is not None]
        # one that is there becomes special too: what is not, texts can spell, and answers show
        inner.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in dict.fromkeys(controls)])
        try:
            found = cls(inner, "", ChatTemplate.adopt(folder, described))
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
        for name in controls:
            for text in (name, f"a{name}b", f"a {name} b"):
                if inner.token_to_id(name) in found.encode(text):
                    raise ValueError(
                        f"{path}: a text that spells {name} becomes that control token: take it out of the model's vocabulary "
                        "(it may stand in added_tokens alone), or name a checkpoint with another tokenizer"
                    )
        return found


def _config_of(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, with the tokens of special_tokens_map.json that it does not name; empty where there is neither."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if path.exists():
            read = _read_json(path)
            if not isinstance(read, dict):
                raise ValueError(f"{path}: not a JSON object")
            found |= {key: value for key, value in read.items() if value is not None}
    return found


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None


def _read(path: Path) -> tuple[tokenizers.Tokenizer, str]:
    if not path.exists():
        older = [name for name in ("tokenizer.model", "vocab.json", "vocab.txt") if (path.parent / name).exists()]
        if older:
            folder = str(path.parent)
            raise ValueError(
                f"{path}: no such file, and {older[0]} alone is not read: have transformers write it, "
                f"AutoTokenizer.from_pretrained({folder!r}).save_pretrained({folder!r})"
            )
        raise ValueError(f"{path}: no such file; {advice(path.parent)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        return tokenizers.Tokenizer.from_str(text), text
    except Exception as error:  # `tokenizers` raises bare Exception for a file it cannot parse
        raise ValueError(f"{path}: not a tokenizer file: {error}") from None

"""Answers in the shapes of OpenAI's API."""

import json
import secrets
import time
from typing import Any

from flows.serve.generation import Piece
from flows.serve.requests import GenerationRequest
from flows.serve.token_text import REPLACEMENT, token_text
from lm.continuous import Token
from lm.pieces import Pieces
from lm.tokenizer import Tokenizer


def event(body: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(body)}\n\n"


LAST_EVENT = "data: [DONE]\n\n"


class Shape:
    """The answer to one request: whole, or in chunks."""

    def __init__(self, asked: GenerationRequest, model: str, tokenizer: Tokenizer, chat: bool) -> None:
        self._asked, self._tokenizer, self._chat = asked, tokenizer, chat
        self._model, self._made = model, int(time.time())
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
        self._written = 0
        self._texts, self._lengths = [Pieces(tokenizer) for _ in self._numbers()], [0 for _ in self._numbers()]

    def first(self) -> list[dict[str, Any]]:
        """Chunks before any text: who speaks."""
        if not self._chat:
            return []
        delta = {"role": "assistant", "content": ""}
        return [
            self._chunk([{"index": n, "delta": delta, "logprobs": None, "finish_reason": None}])
            for n in self._numbers()
        ]

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """A chunk of the text that came."""
        self._written += len(piece.tokens)
        said = {"delta": {"content": piece.text} if piece.text else {}} if self._chat else {"text": piece.text}
        return self._chunk(
            [{"index": piece.number, **said, "logprobs": self._logps(piece), "finish_reason": piece.finish}]
        )

    def last(self) -> list[dict[str, Any]]:
        """Chunks behind all text: how much it was, where that was asked for."""
        return [{**self._chunk([]), "usage": self._usage()}] if self._asked.usage else []

    def whole(self, pieces: list[Piece]) -> dict[str, Any]:
        """The answer of all pieces."""
        choices = []
        for number in self._numbers():
            own = [piece for piece in pieces if piece.number == number]
            tokens = [token for piece in own for token in piece.tokens]
            self._written += len(tokens)
            text = "".join(piece.text for piece in own)
            said = (
                {"message": {"role": "assistant", "content": text, "refusal": None}} if self._chat else {"text": text}
            )
            logps = self._logps(Piece(number, text, tokens, own[-1].finish))
            choices.append({"index": number, **said, "logprobs": logps, "finish_reason": own[-1].finish})
        return {**self._head(""), "choices": choices, "usage": self._usage()}

    def _numbers(self) -> range:
        return range(len(self._asked.prompts) * self._asked.choices)

    def _head(self, kind: str) -> dict[str, Any]:
        called = f"chat.completion{kind}" if self._chat else "text_completion"
        return {"id": self._id, "object": called, "created": self._made, "model": self._model}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head(".chunk"), "choices": choices, **({"usage": None} if self._asked.usage else {})}

    def _usage(self) -> dict[str, int]:
        """A prompt counts once, however many texts follow it."""
        read = sum(map(len, self._asked.prompts))
        return {"prompt_tokens": read, "completion_tokens": self._written, "total_tokens": read + self._written}

    def _logps(self, piece: Piece) -> dict[str, Any] | None:
        if self._asked.likeliest is None:
            return None
        if self._chat:
            return {"content": [self._token(token) for token in piece.tokens], "refusal": None}
        offsets = []
        for token in piece.tokens:  # all tokens of a character begin where it does
            offsets.append(self._lengths[piece.number])
            self._lengths[piece.number] += len(self._texts[piece.number].add(token.id))
        return {
            "tokens": [token_text(self._tokenizer, token.id) for token in piece.tokens],
            "token_logprobs": [token.logp for token in piece.tokens],
            "top_logprobs": [self._named(token.likeliest) for token in piece.tokens],
            "text_offset": offsets,
        }

    def _named(self, likeliest: list[tuple[int, float]]) -> dict[str, float]:
        """Log-probabilities by name, the likeliest first; of tokens of one name that of the likelier."""
        found: dict[str, float] = {}
        for index, logp in likeliest:
            found.setdefault(token_text(self._tokenizer, index), logp)
        return found

    def _token(self, token: Token) -> dict[str, Any]:
        return {**self._said(token.id, token.logp), "top_logprobs": [self._said(*one) for one in token.likeliest]}

    def _said(self, index: int, logp: float | None) -> dict[str, Any]:
        text = self._tokenizer.spell([index])
        known = REPLACEMENT not in text  # else a part of a character, whose bytes the text does not say
        return {"token": text, "logprob": logp, "bytes": list(text.encode()) if known else None}

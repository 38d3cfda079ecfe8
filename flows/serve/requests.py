"""What a client may ask for, as OpenAI's API has it, and what is wrong with what it asked.

A parameter that we do not have is refused unless it asks for nothing: one that was taken and not heeded would be a lie.
"""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lm.config import ConfigError, words_of
from lm.strategies.base import Strategy
from lm.strategies.named import strategy_of
from lm.temperature import COLDEST
from lm.tokenizer import Tokenizer

# What is not there, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": ({}, None),
    "response_format": ({"type": "text"}, None),
    "tools": ([], None),
    "tool_choice": ("none", "auto", None),
    "best_of": (1, None),
    "echo": (False, None),
    "suffix": ("", None),
    "store": (False, None),
}
# They ask for nothing whatever they are: whom the answer is for
NOTHING = {"user", "metadata", "safety_identifier"}
MOST_CHOICES = 128
# What may be of one kind or another, of which pydantic names the first
ONE_OF = {"prompt": "a text, a list of texts, a list of ids or a list of such", "stop": "a text or a list of texts"}


class Refusal(Exception):
    """A request that is not answered: `status` of HTTP, and what OpenAI's errors have beside the message."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """The JSON of it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Body):
    include_usage: bool = False


class _RequestBody(_Body):
    """What both endpoints take."""

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    min_p: float | None = Field(None, ge=0, lt=1)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def stops(self) -> list[str]:
        """Texts of which none is in an answer. Raises Refusal for an empty one, or more than four."""
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if not all(found) or len(found) > 4:
            raise Refusal("stop: up to 4 texts, of a character or more each", "stop")
        return found


class Completion(_RequestBody):
    """Body of /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=5)

    def prompts(self, tokenizer: Tokenizer, vocab_size: int) -> list[list[int]]:
        """Ids of each prompt; one without any is the token that ends a document. Raises Refusal for ids that there are not."""
        given = self.prompt
        if isinstance(given, str):
            texts: list[Any] = [given]
        elif given and isinstance(given[0], int):
            texts = [given]
        else:
            texts = list(given)
        if not texts or len(texts) * (self.n or 1) > MOST_CHOICES:
            raise Refusal(f"prompt: 1 to {MOST_CHOICES} completions a request, n among them", "prompt")
        found = [[*tokenizer.before, *tokenizer.encode(one)] if isinstance(one, str) else one for one in texts]
        if any(not 0 <= index < vocab_size for ids in found for index in ids):
            raise Refusal(f"prompt: ids are 0 to {vocab_size - 1}", "prompt")
        return [ids or [tokenizer.eos_id] for ids in found]


class Part(_Body):
    """A part of a message, which is text."""

    type: str
    text: str


class Message(_Body):
    role: str
    content: str | list[Part] | None = None
    name: str | None = None

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates know it. Raises Refusal for a part that is no text."""
        parts = self.content if isinstance(self.content, list) else []
        if strange := next((part.type for part in parts if part.type != "text"), None):
            raise Refusal(f"messages: a part of type {strange!r}, and texts alone are read", "messages")
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in parts)
        return {"role": self.role, "content": content, **({"name": self.name} if self.name else {})}


class Chat(_RequestBody):
    """Body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    strategy: str | dict[str, Any] | None = None

    def decoding_strategy(self) -> Strategy | None:
        """How the answer is to be found, where a strategy is named. Raises Refusal for what is none, and for what goes with
        none."""
        if self.strategy is None:
            return None
        for name in ("temperature", "top_p", "min_p", "logprobs"):
            if getattr(self, name) is not None:
                raise Refusal(f"{name}: goes with no strategy: name it in the strategy where it has it", name)
        try:
            found = strategy_of(self.strategy)
        except ConfigError as error:
            raise Refusal(str(error), "strategy") from None
        if found.answers * (self.n or 1) > MOST_CHOICES:
            raise Refusal(
                f"strategy: {MOST_CHOICES} answers a request at most, those that are not taken too", "strategy"
            )
        return found

    def prompt(self, tokenizer: Tokenizer) -> list[int]:
        """Ids of the conversation up to where the answer begins. Raises Refusal for what the model's chat template refuses, and
        for a message that spells one of its control tokens, which would end its turn."""
        messages = [message.for_template() for message in self.messages]
        for message in messages:
            if name := next(filter(None, map(tokenizer.spelled, message.values())), None):  # of role and name, too
                raise Refusal(f"messages: one spells the control token {name}, which would end its turn", "messages")
        try:
            written = tokenizer.template.render(messages, awaiting=True)
        except ValueError as error:
            raise Refusal(f"messages: {error}", "messages") from None
        return tokenizer.encode_written(written.text)[0]


@dataclass(frozen=True)
class GenerationRequest:
    """A request that can be written. prompts: ids, of each of which `choices` are written. likeliest: as lm/continuous.py has
    it. max_tokens: None: as many as there is room for."""

    prompts: list[list[int]]
    choices: int
    max_tokens: int | None
    temperature: float
    seed: int | None
    stops: list[str]
    likeliest: int | None
    stream: bool
    usage: bool
    top_p: float = 1.0
    min_p: float = 0.0
    strategy: Strategy | None = None


def parse_body(text: bytes, kind: type[Completion] | type[Chat], name: str) -> Completion | Chat:
    """The body of a request to the model of this name. Raises Refusal for what is no JSON, for a parameter that there is not or
    that is wrong, and for another model."""
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Refusal(
            f"the body has half of a pair of surrogates, {error.object[error.start]!a}: not a character"
        ) from None
    except (ValueError, RecursionError) as error:
        raise Refusal(f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refusal("the body is no JSON object")
    for key in sorted(NEUTRAL.keys() & found.keys()):
        if found.pop(key) not in NEUTRAL[key]:
            raise Refusal(f"{key}: is not supported: leave it out", key, "unsupported_parameter")
    for key in NOTHING:
        found.pop(key, None)
    try:
        asked = kind.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        key, place = str(first["loc"][0]), ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise Refusal(f"{place}: there is no such parameter", key, "unknown_parameter") from None
        wrong = f"{key}: must be {ONE_OF[key]}" if key in ONE_OF else f"{place}: {words_of(first)}"
        raise Refusal(wrong, key) from None
    if asked.model != name:
        raise Refusal(f"there is no model {asked.model!r}; here is {name!r}", "model", "model_not_found", 404)
    return asked


def generation_request(
    body: Completion | Chat, tokenizer: Tokenizer, vocab_size: int, context: int
) -> GenerationRequest:
    """What the request comes to. Raises Refusal for a prompt that leaves no room in the context, or cannot be one."""
    if isinstance(body, Chat):
        if body.top_logprobs is not None and not body.logprobs:
            raise Refusal("top_logprobs: needs logprobs true", "top_logprobs")
        prompts, most = [body.prompt(tokenizer)], body.max_completion_tokens or body.max_tokens
        likeliest, key = (body.top_logprobs or 0) if body.logprobs else None, "messages"
    else:
        prompts, most = body.prompts(tokenizer, vocab_size), body.max_tokens or 16  # OpenAI's default
        likeliest, key = body.logprobs, "prompt"
    for ids in prompts:
        if not 0 < len(ids) < context:
            raise Refusal(
                f"{key}: {len(ids)} tokens, and the context of {context} takes 1 to {context - 1} and an answer",
                key,
                "context_length_exceeded",
            )
    temperature = 1.0 if body.temperature is None else body.temperature if body.temperature >= COLDEST else 0.0
    seed = None if body.seed is None else body.seed % 2**63
    usage = bool(body.stream_options and body.stream_options.include_usage)
    strategy = body.decoding_strategy() if isinstance(body, Chat) else None
    top_p, min_p = 1.0 if body.top_p is None else body.top_p, body.min_p or 0.0
    return GenerationRequest(
        prompts, body.n or 1, most, temperature, seed, body.stops(), likeliest, bool(body.stream), usage, top_p, min_p, strategy
    )  # fmt: skip

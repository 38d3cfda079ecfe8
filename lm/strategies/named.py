"""A strategy as who talks to a model names it: in a chat, and in a request to a server."""

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lm import strategies
from lm.config import ConfigError, choice, words_of
from lm.strategies.base import Strategy

MOST_SAMPLES = 128  # answers or beams of one answer: what a chat and a server are willing to write for it


def strategy_of(given: str | dict[str, Any]) -> Strategy:
    """The strategy of a mapping of `name` and its parameters, of such a mapping as JSON, or of a name alone. Raises ConfigError
    in a line for what is none, and for one that asks whoever scores problems, who is not there."""
    found: Any = given
    if isinstance(given, str):
        try:
            found = json.loads(given) if given.lstrip().startswith("{") else {"name": given}
        except ValueError as error:
            raise ConfigError(f"strategy: {given!r} is not JSON: {error}") from None
    try:
        strategy: Strategy = TypeAdapter(choice(strategies)).validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("strategy", *first["loc"]))
        raise ConfigError(f"{where}: {words_of(first)} (got {first['input']!r})") from None
    if getattr(strategy, "by", "") == "verifier":
        name = strategy.model_dump()["name"]
        raise ConfigError(f"strategy: {name}: there is nobody to score answers: take by: likelihood")
    if strategy.answers > MOST_SAMPLES:
        raise ConfigError(f"strategy.samples: {MOST_SAMPLES} at most")
    return strategy

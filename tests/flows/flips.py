"""Parameters with one value changed, for the tests that nothing which decides bytes goes unnoticed."""

from functools import reduce
from operator import getitem
from typing import Any


def flipped(value: Any) -> Any:
    """Another value of the same type; of a text, one that is still a path or a word."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"{value}x" if isinstance(value, str) else "x"


def places(value: Any, path: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Where the values of a section are."""
    if isinstance(value, dict | list):
        pieces = value.items() if isinstance(value, dict) else enumerate(value)
        return [place for key, part in pieces for place in places(part, (*path, key))]
    return [path]


def with_flip(params: dict[str, Any], place: tuple[Any, ...]) -> dict[str, Any]:
    """The params with the value at a place flipped."""
    return with_value(params, place, flipped(reduce(getitem, place, params)))


def with_value(params: Any, place: tuple[Any, ...], value: Any) -> Any:
    """The params with another value at a place."""
    if not place:
        return value
    copy: Any = list(params) if isinstance(params, list) else dict(params)
    copy[place[0]] = with_value(params[place[0]], place[1:], value)
    return copy

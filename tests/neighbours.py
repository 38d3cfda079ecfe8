"""A method with one parameter changed, for tests that every parameter of every method counts, whichever methods there are."""

from collections.abc import Callable, Hashable
from itertools import chain
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from lm.config import Config


def neighbours(method: Config, name: str) -> list[list[Config]]:
    """Lists of methods that differ from this one in this parameter, of each of which one at least must do something else: one
    list for each other name of a choice, one for a number, with values near and far, since it need not bind at each, and those of
    the parameters of a config within it. Raises AssertionError where none is known."""
    found = [[other for value in values if (other := changed(method, name, value))] for values in others(method, name)]
    assert found and all(found), f"{type(method).__name__}.{name}: tests/neighbours.py knows no other value of it"
    return found


def others(method: Config, name: str) -> list[list[Any]]:
    """The same of values, which need not be valid."""
    value, annotation = getattr(method, name), type(method).model_fields[name].annotation
    if get_origin(annotation) is Literal:
        return [[other] for other in get_args(annotation) if other != value]
    if isinstance(value, bool):
        return [[not value]]
    if isinstance(value, int):
        return [[value + 1, value - 1, 2 * value]]
    if isinstance(value, float):
        return [[value * 0.75 if value else 0.25, value / 4, value + 0.1, 4 * value]]
    if isinstance(value, list) and get_args(annotation) == (float,):
        return [[[*value, 2 * value[-1]], [3 * value[0], *value]]]
    if value is None and float in get_args(annotation):
        return [[0.02, 0.5]]
    if isinstance(value, Config):
        inner = [(key, few) for key in type(value).model_fields for few in others(value, key)]
        return [[{**value.model_dump(), key: other} for other in few] for key, few in inner]
    return []


def changed(method: Config, name: str, value: Any) -> Config | None:
    """The method with this value; None where it is not valid, or no other one."""
    if value == getattr(method, name):
        return None
    try:
        return type(method).model_validate({**method.model_dump(), name: value})
    except ValidationError:
        return None


def every_neighbour(methods: tuple[type[Config], ...]) -> list[list[Config]]:
    """The neighbours of all parameters of these methods, from their defaults."""
    knobs = [(method(), name) for method in methods for name in method.model_fields if name != "name"]
    return list(chain.from_iterable(neighbours(method, name) for method, name in knobs))


def assert_all_differ(made: Callable[[dict[str, Any]], Hashable], tries: list[list[dict[str, Any]]]) -> None:
    """What is made with these changes, or with none, is each time something else; of a list it suffices that one of them is."""
    found = {made({}): "what is made without changes"}
    for settings in tries:
        for changes in settings:
            if (now := made(changes)) not in found:
                break
        assert now not in found, f"{changes} is {found[now]}"
        found[now] = str(changes)

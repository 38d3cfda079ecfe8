"""Places of params.yaml in which a method stands, and the methods that can, as the stages' own configs say."""

from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel

from tasks.core.config import SHARED
from tasks.runner.rooms import config_of

Method = type[BaseModel]


def classes_in(annotation: Any) -> Iterator[Method]:
    """The classes of parameters that an annotation names, however deep: in a choice, a list, or either of them and None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from classes_in(part)


def names_of(method: Method) -> tuple[str, ...]:
    """What a method is called in params.yaml: a few have more than one name."""
    return get_args(method.model_fields["name"].annotation)


def places_in(kind: Method, key: str = "", above: tuple[Method, ...] = ()) -> Iterator[tuple[str, Method]]:
    """(key, method) of everything that can stand below a key of the parameters, methods of methods included."""
    for name, field in kind.model_fields.items():
        place = f"{key}.{name}" if key else name
        for found in classes_in(field.annotation):
            if "name" in found.model_fields:
                yield place, found
            if found not in above:
                yield from places_in(found, place, (*above, found))


def places(stages: Iterable[str]) -> dict[str, dict[str, Method]]:
    """The methods of each place of the parameters, by name; sections that several stages read stand by themselves."""
    found = dict[str, dict[str, Method]]()
    for stage in stages:
        for place, method in places_in(config_of(stage)):
            key = place if place.split(".")[0] in SHARED else f"{stage}.{place}"
            found.setdefault(key, {}).update(dict.fromkeys(names_of(method), method))
    return found

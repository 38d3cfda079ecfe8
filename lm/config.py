"""The base of every configuration: frozen, strict, and one line per mistake."""

from collections.abc import Mapping
from functools import reduce
from operator import or_
from types import ModuleType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class ConfigError(ValueError):
    """Parameters that cannot be used; the message has one line for each mistake."""


class Config(BaseModel):
    """A value checked when it is made: unknown keys and wrong types are errors, and it never changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# Of the pipeline's draws: what every stage can hand to a counter-based generator as one half of a key.
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def mistakes(error: ValidationError) -> str:
    """All mistakes of a value in one line, each behind its key where it is one key's."""
    said = ((".".join(map(str, each["loc"])), words_of(each)) for each in error.errors())
    return "; ".join(": ".join(filter(None, parts)) for parts in said)


def words_of(mistake: Mapping[str, Any]) -> str:
    """What is wrong, without what pydantic puts before words of ours."""
    return mistake["msg"].removeprefix("Value error, ")


def methods_of(package: ModuleType) -> tuple[type[Config], ...]:
    """The methods of a room, sorted by name: every Config with a `name` that the package's __init__ imports."""
    found = [
        m for m in vars(package).values() if isinstance(m, type) and issubclass(m, Config) and "name" in m.model_fields
    ]
    return tuple(sorted(found, key=lambda method: method.model_fields["name"].default))


def choice(package: ModuleType) -> Any:
    """The type of a field that holds one of a room's methods; `name` says which."""
    methods = methods_of(package)
    if len(methods) == 1:
        return methods[0]
    return Annotated[reduce(or_, methods), Field(discriminator="name")]

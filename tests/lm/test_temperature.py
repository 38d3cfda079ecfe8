"""Every temperature that logits are divided by is one that they can be divided by."""

import importlib
from collections.abc import Iterator
from typing import Annotated

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from lm.config import Config
from lm.temperature import COLDEST
from tests.test_imports import MODULES

# what divides no logits: of levels of problems, of shares of sources, of distances to centroids
OTHERS = {("Bandit", "temperature"), ("Proportional", "temperature"), ("Centroids", "temperature")}


def configs(base: type[Config]) -> Iterator[type[Config]]:
    """Every class of parameters below this one."""
    for each in base.__subclasses__():
        yield each
        yield from configs(each)


def temperatures() -> dict[tuple[str, str], TypeAdapter[float]]:
    """What each reads, by class and field."""
    for name in MODULES:
        if name.partition(".")[0] in ("lm", "tasks") and not name.endswith("__main__"):
            importlib.import_module(name)
    return {
        (each.__name__, name): TypeAdapter(Annotated[field.annotation, *field.metadata, Field()])
        for each in configs(Config)
        for name, field in each.model_fields.items()
        if name.endswith("temperature")
    }


def test_a_temperature_has_a_floor() -> None:
    found = temperatures()
    assert set(found) > OTHERS and len(found) > 15, sorted(found)
    for which in sorted(set(found) - OTHERS):
        kind = found[which]
        assert kind.validate_python(COLDEST) == COLDEST and kind.validate_python(1.0) == 1.0, which
        for below in (1e-38, COLDEST / 2, -1.0):
            with pytest.raises(ValidationError):
                pytest.fail(f"{which} takes {kind.validate_python(below)}")

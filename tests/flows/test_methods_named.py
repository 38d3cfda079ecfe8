"""The table of stages in docs/running.md names every method there is."""

import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from lm.config import methods_of
from tests.imports import ROOMS
from tests.project import ROOT

[TABLE] = re.findall(r"^\| stage \| what it does.*\n((?:\|.*\n)+)", (ROOT / "docs/running.md").read_text(), re.M)
WORDS = set(re.findall(r"\w+", TABLE))
# what does nothing in the slots of a room is no method that one would choose
NOTHING = {"keep_all", "none"}


def module_of(room: Path) -> ModuleType:
    return import_module(".".join(room.relative_to(ROOT).parts))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: "-".join(room.relative_to(ROOT).parts))
def test_the_table_of_stages_names_the_methods_of_a_room(room: Path) -> None:
    found = {
        name for method in methods_of(module_of(room)) for name in get_args(method.model_fields["name"].annotation)
    }
    assert found and found - NOTHING <= WORDS, f"docs/running.md: no {sorted(found - NOTHING - WORDS)} of {room.name}"

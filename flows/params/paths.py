"""The parameters that dvc.yaml makes paths of: what cannot be one is refused before DVC stumbles over it."""

import re
from pathlib import Path
from typing import Any

from tasks.runner.graph import value_of

TEMPLATE = re.compile(r"\$\{([\w.]+)\}")


def names_in(root: Path) -> list[str]:
    """The names of the parameters that dvc.yaml fills in, sorted."""
    return sorted(set(TEMPLATE.findall((root / "dvc.yaml").read_text())))


def path_mistakes(root: Path, params: dict[str, Any]) -> list[str]:
    """One line for each `${name}` of dvc.yaml whose value is empty or holds control characters. A folder may lie anywhere: an
    input outside the project is named by an absolute path or one with `..`."""
    mistakes = []
    for name in names_in(root):
        value = value_of(name, params)
        if isinstance(value, str) and (not value or any(ord(letter) < 32 for letter in value)):
            mistakes.append(f"params.yaml: {name}: {value!r} is no path, and dvc.yaml makes one of it")
    return mistakes

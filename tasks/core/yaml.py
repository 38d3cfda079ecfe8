"""YAML as DVC reads it: the same library in the same mode (1.2: `1e-4` is a number, `yes` is a word), so that a stage
and dvc.lock never disagree about a value."""

import io
import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

__all__ = ["YAMLError", "dump_yaml", "parse_yaml", "read_yaml"]


def parse_yaml(text: str) -> Any:
    """The value of a text, new at every call. Raises YAMLError."""
    return pickle.loads(_parsed(text))


# One run reads dvc.yaml, dvc.lock, params.yaml and presets 107 times, 10 of them different, at up to 0.2 s each
@lru_cache(maxsize=32)
def _parsed(text: str) -> bytes:
    return pickle.dumps(YAML(typ="safe").load(text))


def read_yaml(path: Path) -> Any:
    """The value of a file, None of an empty one. Raises FileNotFoundError and YAMLError."""
    return parse_yaml(path.read_text())


def dump_yaml(values: Any) -> str:
    """The text of a value, a key a line, in the order of its keys."""
    yaml, text = YAML(typ="safe"), io.StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 120
    yaml.dump(values, text)
    return text.getvalue()

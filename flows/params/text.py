"""The text of params.yaml when values change: what does not change keeps its place, its layout and its comments."""

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from tasks.core.yaml import YAMLError, dump_yaml, parse_yaml


def edit_yaml(text: str, values: dict[str, Any]) -> str:
    """The text with these values, as it was wherever they are what it says; a text that cannot be followed is written anew."""
    yaml, out = YAML(), io.StringIO()
    yaml.preserve_quotes = True
    yaml.width = 4096  # a long line stays one
    try:
        tree = yaml.load(text)
        if isinstance(tree, CommentedMap):
            _follow(tree, values)
            yaml.dump(tree, out)
            if parse_yaml(out.getvalue()) == values:
                return out.getvalue()
    except YAMLError:
        pass
    return dump_yaml(values)


def _follow(tree: CommentedMap, values: dict[str, Any]) -> None:
    """Give a mapping these values, new keys where they stand among the values."""
    for key in [key for key in tree if key not in values]:
        del tree[key]
    for place, (key, value) in enumerate(values.items()):
        if key not in tree:
            tree.insert(place, key, _as_written(value))
        elif not _same(tree[key], value):
            if isinstance(value, dict) and isinstance(tree[key], CommentedMap):
                _follow(tree[key], value)
            else:
                tree[key] = _as_written(value)


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _as_written(value: Any) -> Any:
    """A new value: a list of plain values on one line, anything else a key or an entry a line."""
    if isinstance(value, dict):
        return CommentedMap({key: _as_written(part) for key, part in value.items()})
    if isinstance(value, list):
        written = CommentedSeq(map(_as_written, value))
        if not any(isinstance(part, dict | list) for part in value):
            written.fa.set_flow_style()
        return written
    return value

"""What dvc.yaml says of each stage, with its templates filled in from params.yaml.

A reader for the stage wrapper, the report and the tests, none of which may import DVC. It knows what our dvc.yaml uses:
`${a.b}`, and `foreach` over a list with `${item}`; a test compares it with DVC's own resolver.
"""

import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.core.config import ConfigError, read_params
from tasks.core.yaml import read_yaml


@dataclass(frozen=True)
class Entry:
    """One stage: its address (`dedup`, `evaluate@rl`), and what dvc.yaml declares for it."""

    address: str
    cmd: str
    deps: list[str]
    params: list[str]
    outs: list[str]
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.address.partition("@")[0]

    @property
    def item(self) -> str | None:
        return self.address.partition("@")[2] or None

    def declared(self, params: dict[str, Any]) -> dict[str, Any]:
        """What the stage depends on of these params, by the names that dvc.yaml and dvc.lock have for it; what is missing is
        left out."""
        found = {}
        for name in self.params:
            with suppress(KeyError):
                found[name] = value_at(name, params)
        return found


def value_at(name: str, values: dict[str, Any]) -> Any:
    """The value of a section (`rl`) or of a dotted key (`libraries.torch`). Raises KeyError with the name."""
    found: Any = values
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            raise KeyError(name)
        found = found[part]
    return found


def value_of(name: str, values: Any) -> Any:
    """Value of a section or of a dotted key, None where there is none."""
    try:
        return value_at(name, values)
    except KeyError:
        return None


def _text(name: str, values: dict[str, Any]) -> str:
    try:
        return str(value_at(name.strip(), values))
    except KeyError:
        raise ConfigError(f"params.yaml: {name.strip()}: dvc.yaml needs this key") from None


def _filled(template: Any, values: dict[str, Any]) -> Any:
    if isinstance(template, str):
        return re.sub(r"\$\{([^}]+)\}", lambda match: _text(match[1], values), template)
    if isinstance(template, list):
        return [_filled(part, values) for part in template]
    if isinstance(template, dict):
        return {key: _filled(part, values) for key, part in template.items()}
    return template


def _entry(address: str, body: dict[str, Any], values: dict[str, Any]) -> Entry:
    declared = {
        key: _filled(body.get(key, [] if key != "meta" else {}), values) for key in ("deps", "params", "outs", "meta")
    }
    return Entry(address, _filled(body["cmd"], values), **declared)


def read_graph(root: Path = Path(".")) -> dict[str, Entry]:
    """Every stage of root/dvc.yaml by its address, in the order of the file."""
    params = read_params(root / "params.yaml")
    entries: dict[str, Entry] = {}
    for name, body in read_yaml(root / "dvc.yaml")["stages"].items():
        for item in body.get("foreach", [None]):
            address = name if item is None else f"{name}@{item}"
            entries[address] = _entry(address, body.get("do", body), params | ({} if item is None else {"item": item}))
    return entries

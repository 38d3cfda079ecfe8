"""What dvc.yaml says of each stage, with its templates filled in from params.yaml.

A reader for the stage wrapper, the report and the tests, none of which may import DVC. It knows what our dvc.yaml uses:
`${a.b}`, and `foreach` over a list, or a `${name}` of one, with `${item}`; a test compares it with DVC's own resolver.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
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
    """Value at a dotted name, None where there is none."""
    try:
        return value_at(name, values)
    except KeyError:
        return None


def _text(name: str, values: dict[str, Any]) -> str:
    try:
        return str(value_at(name.strip(), values))
    except KeyError:
        new = name.strip().partition(".")[0] not in values
        remedy = "; `make pipeline` takes a new stage's section from presets/laptop.yaml" if new else ""
        raise ConfigError(f"params.yaml: {name.strip()}: dvc.yaml needs this key{remedy}") from None


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
    declared["deps"] = list(dict.fromkeys(declared["deps"]))  # two parameters may name one folder
    return Entry(address, _filled(body["cmd"], values), **declared)


def items_of(body: dict[str, Any], params: dict[str, Any]) -> list[str | None]:
    """What a stage is repeated over; [None] where it is one stage. Raises ConfigError naming a parameter that is no list."""
    items = body.get("foreach", [None])
    if isinstance(items, str):
        name = items.removeprefix("${").removesuffix("}").strip()
        try:
            items = value_at(name, params)
        except KeyError:
            raise ConfigError(f"params.yaml: {name}: dvc.yaml needs this key") from None
        if not isinstance(items, list) or not items:
            raise ConfigError(f"params.yaml: {name}: must be a list of one at least (got {items!r})")
    return items


def read_graph(root: Path = Path(".")) -> dict[str, Entry]:
    """Every stage of root/dvc.yaml by its address, in the order of the file, by root/params.yaml."""
    return graph_of(root, read_params(root / "params.yaml"))


def graph_of(root: Path, params: dict[str, Any]) -> dict[str, Entry]:
    """Every stage of root/dvc.yaml by its address, in the order of the file, by these params."""
    entries: dict[str, Entry] = {}
    for name, body in read_yaml(root / "dvc.yaml")["stages"].items():
        for item in items_of(body, params):
            address = name if item is None else f"{name}@{item}"
            entries[address] = _entry(address, body.get("do", body), params | ({} if item is None else {"item": item}))
    return entries


def upstream(graph: dict[str, Entry]) -> dict[str, list[str]]:
    """The stages that each stage reads the output of."""
    made = {out: address for address, entry in graph.items() for out in entry.outs}
    return {address: [made[dep] for dep in entry.deps if dep in made] for address, entry in graph.items()}


def closure(edges: dict[str, list[str]], addresses: Iterable[str]) -> set[str]:
    """Addresses of these stages and of all that they wait for."""
    found, waiting = set[str](), list(addresses)
    while waiting:
        address = waiting.pop()
        if address not in found:
            found.add(address)
            waiting += edges[address]
    return found


def with_upstream(graph: dict[str, Entry], addresses: Iterable[str]) -> list[str]:
    """Addresses of these stages and of all they need, each after what it needs."""
    edges = upstream(graph)
    wanted = closure(edges, addresses)
    return [address for address in TopologicalSorter(edges).static_order() if address in wanted]


def goals(metas: dict[str, dict[str, Any]]) -> list[str]:
    """The stages for whose sake the others are there, by the meta of all: those that dvc.yaml calls `goal: true`, or all where
    it calls none so. What leads to none of them runs only where somebody asks for it by name."""
    return [address for address, meta in metas.items() if meta.get("goal")] or list(metas)


def goals_with_upstream(graph: dict[str, Entry]) -> list[str]:
    """Addresses of the goals and of all that they need, each after what it needs."""
    return with_upstream(graph, goals({address: entry.meta for address, entry in graph.items()}))

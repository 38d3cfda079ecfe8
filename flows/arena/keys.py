"""By what a run is known before it is made: all that decides its outcome, seconds aside.

It is what DVC compares, for every stage up to the measure: command, declared parameters, and the digests of code and of
data that no stage makes. What a stage makes follows from these. A section is taken as its stage takes it, with every default
in it: a baseline that says its method and one that leaves it out are one run. Settings that decide bits count, too, where they
are not what holds without them.
"""

from functools import cached_property
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.params.paths import names_in
from lm.inputs.hashed import read_ignored
from lm.settings import OFFLOAD, PARALLEL, POSITIONS
from tasks.core.config import load
from tasks.runner.graph import Entry, graph_of, value_of, with_upstream
from tasks.runner.key import path_md5
from tasks.runner.rooms import config_of, room_of
from tasks.runner.settings import RANKS


class Keys:
    """Keys of the runs of one study, or of many: a file is read once."""

    def __init__(self, root: Path) -> None:
        self._root, self._ignored = root, read_ignored(root)
        self._md5s: dict[str, str] = {}
        self._graphs: dict[str, dict[str, Entry]] = {}

    def key(self, params: dict[str, Any], stage: str, beside: list[Any]) -> str:
        """The key of a run with these parameters up to this stage. beside: what else decides it, such as the threads. Raises
        ConfigError for parameters that the stages cannot use."""
        graph = self._graph(params)
        made = {out for entry in graph.values() for out in entry.outs}
        said = [
            [
                address,
                graph[address].cmd,
                taken(graph[address], params),
                {dep: self.md5(dep) for dep in graph[address].deps if dep not in made},
            ]
            for address in with_upstream(graph, [stage])
        ]
        return sha256(dumps([said, [*beside, *set_apart()]], sort_keys=True, default=str).encode()).hexdigest()[:16]

    @cached_property
    def _named(self) -> list[str]:
        return names_in(self._root)

    def _graph(self, params: dict[str, Any]) -> dict[str, Entry]:
        """The graph of these parameters, which follows from those that dvc.yaml names."""
        named = dumps([value_of(name, params) for name in self._named], default=str)
        if named not in self._graphs:
            self._graphs[named] = graph_of(self._root, params)
        return self._graphs[named]

    def md5(self, path: str) -> str:
        """DVC's md5 of a file or folder of the checkout; "" of one that is not there, whose run fails and says so."""
        if path not in self._md5s:
            place = Path(self._ignored.root, path)
            self._md5s[path] = path_md5(place, self._ignored) if place.exists() else ""
        return self._md5s[path]


def set_apart() -> list[dict[str, Any]]:
    """What of the settings decides the bits of a training, as the record of a run has it: the kind and number of ranks, where
    those that train exactly count for one, and the positions that a backward holds where they are given. Empty where nothing
    else holds than without settings. Raises ConfigError for a value that is not allowed."""
    found: dict[str, Any] = {}
    kind, ranks = PARALLEL.read(), RANKS.read()
    if kind != PARALLEL.default and ranks > 1:
        found |= {PARALLEL.name: kind, RANKS.name: ranks}
        if OFFLOAD.read() != OFFLOAD.default:
            found[OFFLOAD.name] = OFFLOAD.read()
    if (positions := POSITIONS.read()) is not None:
        found[POSITIONS.name] = positions
    return [found] if found else []


def taken(entry: Entry, params: dict[str, Any]) -> dict[str, Any]:
    """What a stage declares of the parameters, as its room's class reads it; as it is written where no room has the stage.
    Raises ConfigError."""
    declared = entry.declared(params)
    if not room_of(entry.name):
        return declared
    config = plain(load(entry.name, config_of(entry.name), params))  # with the sections that it shares with others
    return {**{name: value for name, value in declared.items() if name not in config}, entry.name: config}


def plain(value: Any) -> Any:
    """A config as JSON has it, with every field of the methods in it, whatever class their slot is declared with."""
    if isinstance(value, BaseModel):
        return {name: plain(each) for name, each in value}
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value

"""Methods that no claim is made of: what claims.yaml has yet to say, found from the parameters themselves."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.arena.study import METHOD, Study
from flows.arena.verdicts import Claim
from flows.params.compose import compose
from flows.params.places import Method, places
from tasks.about.sections import Sections
from tasks.runner.graph import read_graph

BASE = "laptop"  # the preset whose methods others are compared with


def unclaimed_methods(root: Path, claims: Iterable[Claim], studies: Iterable[Study]) -> dict[str, list[str]]:
    """Names of methods by room, of the rooms that claims are of: without those that a claim is of, in whichever room,
    those that are a study's baseline, and those of the preset BASE."""
    known = places(dict.fromkeys(entry.name for entry in read_graph(root).values()))
    said = [(claim.room, claim.method) for claim in claims]
    rooms = [room for room in known if room in {room for room, _ in said}]
    for study in studies:
        said += [(study.room if key == METHOD else key, value) for key, value in study.arms[study.baseline].items()]
    methods = {
        known[room][name] for room, value in said if room in known for name in names_in(value) if name in known[room]
    }
    sections, found = Sections(compose(root, BASE, [])), dict[str, list[str]]()
    for room in rooms:
        methods |= in_use(sections, room)
    for room in rooms:
        if names := [name for name, method in known[room].items() if method not in methods]:
            found[room] = sorted(names)
        methods |= set(known[room].values())  # filter has ten rooms of the same rules: each is told once
    return found


def names_in(value: Any) -> Iterator[str]:
    """Names of the methods in a value of params.yaml."""
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, dict) and isinstance(part.get("name"), str):
            yield part["name"]


def in_use(sections: Sections, room: str) -> set[Method]:
    """Methods that stand in a room, defaults included."""
    stage, *keys = room.split(".")
    value: Any = sections[stage]
    for key in keys:
        value = getattr(value, key, None)
    return {
        type(part) for part in (value if isinstance(value, list | tuple) else [value]) if isinstance(part, BaseModel)
    }

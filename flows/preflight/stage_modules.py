"""Which stages have a room of code in tasks/, and what each waits for, out of dvc.yaml."""

import importlib
from graphlib import TopologicalSorter
from types import ModuleType

from tasks.runner.graph import Entry


def room_of(name: str) -> ModuleType | None:
    """The module tasks.<name>.stage; None where there is none, or it has no `run`: the command is somebody else's then."""
    try:
        module = importlib.import_module(f"tasks.{name}.stage")
    except ModuleNotFoundError as error:
        if error.name not in (f"tasks.{name}", f"tasks.{name}.stage"):
            raise
        return None
    return module if hasattr(module, "run") else None


def before(graph: dict[str, Entry]) -> dict[str, list[str]]:
    """The stages that each stage reads the output of."""
    made = {out: address for address, entry in graph.items() for out in entry.outs}
    return {address: [made[dep] for dep in entry.deps if dep in made] for address, entry in graph.items()}


def needed(graph: dict[str, Entry], addresses: list[str]) -> list[str]:
    """Addresses of these stages and of all they need, each after what it needs."""
    edges = before(graph)
    wanted, waiting = set[str](), list(addresses)
    while waiting:
        address = waiting.pop()
        if address not in wanted:
            wanted.add(address)
            waiting += edges[address]
    return [address for address in TopologicalSorter(edges).static_order() if address in wanted]

"""The flow's first act: everything that can be known to fail is said before any stage starts."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.preflight.folders import cache_folder, check_writable
from flows.preflight.passed import digest, recall, remember
from flows.preflight.read import inputs
from flows.preflight.remote import check_remote
from flows.preflight.resources import Needs, check_disk, check_memory
from flows.preflight.services import check_mlflow, check_prefect, check_proxies
from flows.preflight.settings import check_ranks, check_settings
from flows.stage.pools import pool_of
from flows.staleness.plan import Planned
from flows.staleness.restorable import restorable
from flows.staleness.scratch import abandoned
from tasks.about.finding import Finding, findings_of, of_error
from tasks.core.config import ConfigError, read_params
from tasks.report.words import pluralize
from tasks.runner.graph import Entry, graph_of, upstream
from tasks.runner.rooms import room_of
from tasks.runner.say import say as tell

Say = Callable[[str], None]
Meanwhile = Callable[[], None]


def nothing() -> None:
    """What is done meanwhile where nothing is."""


def shown(line: str) -> None:
    """A line of preflight as the terminal has it, beside the lines of stages."""
    tell(f"{'preflight':>18} | {line}")


def preflight(
    root: Path, params: dict[str, Any], todo: list[Planned], say: Say = shown, meanwhile: Meanwhile = nothing
) -> None:
    """Raises ConfigError with a line for everything that is known to fail in a run of these stages; params must be valid. What
    it is at goes to `say`. meanwhile: called once while a rehearsal is at work, if one is needed."""
    found = look(root, params, [stage.address for stage in todo], say, meanwhile)
    if found:
        raise ConfigError("\n".join(map(str, found)))


def look(
    root: Path, params: dict[str, Any], addresses: list[str], say: Say = shown, meanwhile: Meanwhile = nothing
) -> list[Finding]:
    """All findings about a run of these stages with valid params; the toy run only where none like it has passed, and of the
    stages that will run alone, not of those that DVC's cache of runs has."""
    graph = graph_of(root, params)
    if left := abandoned(root):
        say(left)
    found = surroundings(root, [out for address in addresses for out in graph[address].outs])
    ours = [address for address in addresses if room_of(graph[address].name)]
    if not ours:
        return found
    found += findings_of(
        lambda: check_ranks(params, [graph[address].name for address in ours]), lambda: taken_up(root, graph, ours)
    )
    if unusable := findings_of(lambda: inputs(params, [graph[address].name for address in ours])):
        return found + unusable  # there is nothing to rehearse with
    key = digest(root, params, graph)
    needs = recall(root, key, ours)
    if needs is None:
        written = (root / "params.yaml").exists() and read_params(root / "params.yaml") == params
        restored = restorable(root, ours) if written else set()
        ours = [address for address in ours if address not in restored]
        needs = recall(root, key, ours) if ours else {}
    if needs is None:
        failed, needs = first_time(root, params, ours, say, meanwhile)
        found += failed
        if not failed:
            remember(root, key, ours, needs)
    return found + resources(root, graph, ours, needs)


def surroundings(root: Path, outs: list[str]) -> list[Finding]:
    """What needs no params: settings, places to write, servers and the remote."""
    return findings_of(
        check_settings,
        lambda: check_writable(root, cache_folder(root), outs),
        check_proxies,
        check_mlflow,
        check_prefect,
        lambda: check_remote(root),
    )


def taken_up(root: Path, graph: dict[str, Entry], addresses: list[str]) -> list[Finding]:
    """The outputs of earlier runs that these stages read."""
    edges = upstream(graph)
    read = dict.fromkeys(other for address in addresses for other in edges[address] if other not in addresses)
    if not read:
        return []
    from flows.preflight.artifacts import check_artifacts  # imports torch

    return check_artifacts(root / "data", graph, list(read))


def first_time(
    root: Path, params: dict[str, Any], addresses: list[str], say: Say, meanwhile: Meanwhile
) -> tuple[list[Finding], dict[str, Any]]:
    """The rehearsal, announced: it is what a first start waits for."""
    from flows.preflight.child import rehearse_apart

    began = time.monotonic()
    say("the graph at toy width, once for these parameters and this code")
    try:
        found, needs = rehearse_apart(root, params, addresses, say, meanwhile)
    except ConfigError as error:
        return of_error(error), {}
    say(f"{pluralize(len(found), 'finding')} after {time.monotonic() - began:.0f} s")
    return found, needs


def resources(root: Path, graph: dict[str, Entry], addresses: list[str], needs: dict[str, Any]) -> list[Finding]:
    """The forecast against what is there now; the memory of what is sent to a pool is its agents' own matter."""
    if not needs:
        return []
    asked = Needs(**needs)
    outs = [out for address in addresses for out in graph[address].outs]
    here = {graph[address].name for address in addresses if not pool_of(graph[address].meta)}
    return findings_of(lambda: check_disk(root, cache_folder(root), asked, outs), lambda: check_memory(asked, here))

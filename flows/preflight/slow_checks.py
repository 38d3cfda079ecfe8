"""What child.py has done in its process: all that needs torch or takes time, in one answer."""

from pathlib import Path
from typing import Any

from flows.preflight.beside import beside
from flows.preflight.checkpoint import check_checkpoint
from flows.preflight.contracts import check_edges
from flows.preflight.needs import needs_of
from flows.preflight.passed import digest
from flows.preflight.resources import Needs
from flows.preflight.toy_run import rehearse
from flows.preflight.toys import Toys
from tasks.about.finding import Finding, findings_of, of_error
from tasks.core.config import ConfigError
from tasks.core.process import use_threads
from tasks.runner.graph import goals_with_upstream, graph_of


def rehearsed(
    root: Path,
    params: dict[str, Any],
    addresses: list[str],
    folder: Path,
    toys: Path | None = None,
    imports: int | None = None,
) -> tuple[list[Finding], dict[str, Any]]:
    """Findings about edges and the toy run, which works in `folder`, and what a run needs. toys: where stages that passed are
    kept. Edges are those of all stages that are asked for, since a wrong one among what is up to date would be met later.
    imports: as forecast_of has it. The toy run and the forecast, which take as long as each other, have a core each where
    there are two."""
    use_threads()
    graph = graph_of(root, params)
    every = [graph[address] for address in dict.fromkeys([*goals_with_upstream(graph), *addresses])]
    stages = [entry.name for entry in every]
    found = findings_of(lambda: check_checkpoint(params, every), lambda: check_edges(params, stages))
    folder.mkdir()
    unusable = bool(found) and any("checkpoint" in finding.where for finding in found)
    asked = [graph[address].name for address in addresses]
    forecast = None if found else beside(lambda: needs_of(params, asked, imports))
    if not unusable:
        kept = Toys(toys, digest(root, {}, graph)) if toys else None
        found += rehearse(params, graph, addresses, folder, kept)
    if forecast and not found:
        try:
            return found, forecast().to_json()
        except ConfigError as error:  # of what the toy run has too little of to meet
            found = of_error(error)
    return found, Needs().to_json()

"""What rehearsal.py has done in its process: all that needs torch or takes time, in one answer."""

from pathlib import Path
from typing import Any

from flows.preflight.contracts import Sections, check_edges
from flows.preflight.finding import Finding, findings_of
from flows.preflight.inputs import check_checkpoint
from flows.preflight.needs import needs_of
from flows.preflight.passed import digest
from flows.preflight.resources import Needs
from flows.preflight.toy_run import rehearse
from flows.preflight.toys import Toys
from tasks.core.process import use_threads
from tasks.runner.graph import read_graph


def rehearsed(
    root: Path, params: dict[str, Any], addresses: list[str], folder: Path, toys: Path | None = None
) -> tuple[list[Finding], dict[str, Any]]:
    """Findings about edges and the toy run, which works in `folder`, and what a run needs. toys: where stages that passed are
    kept. The forecast and the checkpoint are left out where params are those of another graph than ours."""
    use_threads()
    graph, ours = read_graph(root), set(Sections.__dataclass_fields__) - {"shape"} <= set(params)
    found = findings_of(lambda: check_checkpoint(params), lambda: check_edges(params)) if ours else []
    folder.mkdir()
    unusable = bool(found) and any("checkpoint" in finding.where for finding in found)
    needs = Needs()
    if not unusable:
        kept = Toys(toys, digest(root, {}, graph)) if toys else None
        found += rehearse(params, graph, addresses, folder, kept)
    if ours and not found:
        needs = needs_of(params, {graph[address].name for address in addresses})
    return found, needs.to_json()

"""The files that bind a run together: params.yaml, dvc.yaml and dvc.lock, readable and whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dvc.config import Config
from dvc.exceptions import DvcException

from flows.staleness.plan import Planned, check_inputs, make_plan
from tasks.about.finding import Finding, one_line
from tasks.core.config import ConfigError, read_params
from tasks.core.yaml import YAMLError, read_yaml
from tasks.runner.graph import Entry, goals_with_upstream, graph_of, read_graph, upstream, with_upstream

RESTORE = {
    "dvc.yaml": "`git checkout dvc.yaml` brings back the committed one",
    "dvc.lock": "`git checkout dvc.lock` brings back the committed one",
}


def dvc_config(root: Path) -> Config:
    """DVC's configuration of a project, paths made absolute: a Repo would open its databases too, for 0.1 s."""
    return Config(dvc_dir=str(root / ".dvc"))


def check_files(root: Path) -> Iterator[Finding]:
    """dvc.yaml must be there, dvc.lock need not; both must be a mapping with stages."""
    for name, remedy in RESTORE.items():
        path = root / name
        if not path.exists():
            if name == "dvc.yaml":
                yield Finding(name, "no such file", remedy)
            continue
        try:
            stages = (read_yaml(path) or {}).get("stages", {})
        except (YAMLError, UnicodeDecodeError, AttributeError, OSError) as error:
            yield Finding(name, f"cannot be read: {one_line(error) or type(error).__name__}", remedy)
            continue
        if not isinstance(stages, dict) or not all(isinstance(body, dict) for body in stages.values()):
            yield Finding(name, "its stages are no mapping: the file is torn", remedy)


def names_of(graph: dict[str, Entry]) -> set[str]:
    """What stages are called without what they are repeated over."""
    return {entry.name for entry in graph.values()}


def plan_for(root: Path, params: dict[str, Any], targets: list[str]) -> list[Planned]:
    """The plan as it will be once these params are written: a stage that reads a changed section is stale.

    Raises ConfigError where DVC cannot make sense of its files.
    """
    try:
        old, now = read_graph(root), read_params(root / "params.yaml")
        plan = make_plan(root, [target for target in targets if target in old or target in names_of(old)])
    except DvcException as error:
        causes = [str(cause) for cause in (error, error.__cause__) if cause]
        raise ConfigError(f"dvc.yaml and dvc.lock: {one_line('; '.join(causes))}") from None
    changed = {name for name in {*now, *params} if now.get(name) != params.get(name)}
    graph, there = graph_of(root, params), {stage.address: stage for stage in plan}
    check_inputs(root, graph)  # the plan has looked at those of the params that are written
    edges, found = upstream(graph), []
    asked = [a for a in graph if a in targets or graph[a].name in targets]
    for address in with_upstream(graph, asked) if targets else goals_with_upstream(graph):
        sections = sorted(changed & set(graph[address].params))
        words = [f"changed parameters: {', '.join(sections)}"] if sections else []
        if address not in old or old[address].deps != graph[address].deps:
            words.append("other dependencies")
        known = there.get(address)
        reason = (known.reason if known else None) or "; ".join(words) or (None if known else "was not planned")
        found.append(Planned(address, edges[address], graph[address].meta, reason, known.changes if known else []))
    return found

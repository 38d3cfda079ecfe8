"""The files that bind a run together: params.yaml, dvc.yaml and dvc.lock, readable and whole."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dvc.config import Config
from dvc.exceptions import DvcException

from flows.preflight.finding import Finding, one_line
from flows.staleness.plan import Planned, make_plan
from tasks.core.config import ConfigError, read_params
from tasks.core.yaml import YAMLError, read_yaml
from tasks.runner.graph import read_graph

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


def plan_for(root: Path, params: dict[str, Any], targets: list[str]) -> list[Planned]:
    """The plan as it will be once these params are written: a stage that reads a changed section is stale.

    Raises ConfigError where DVC cannot make sense of its files.
    """
    try:
        plan, now, graph = make_plan(root, targets), read_params(root / "params.yaml"), read_graph(root)
    except DvcException as error:
        causes = [str(cause) for cause in (error, error.__cause__) if cause]
        raise ConfigError(f"dvc.yaml and dvc.lock: {one_line('; '.join(causes))}") from None
    changed = {name for name in {*now, *params} if now.get(name) != params.get(name)}
    found = []
    for stage in plan:
        sections = sorted(changed & set(graph[stage.address].params))
        reason = stage.reason or (f"changed parameters: {', '.join(sections)}" if sections else None)
        found.append(replace(stage, reason=reason))
    return found

"""What the stages left behind, stage by stage in the order of dvc.yaml. Whatever is missing is None or empty."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm.inputs.hashed import read_ignored
from tasks.core.yaml import read_yaml
from tasks.report.chart import Points
from tasks.runner.git import UNKNOWN, is_dirty, revision
from tasks.runner.graph import Entry, goals_with_upstream, read_graph
from tasks.runner.intact import is_another
from tasks.runner.json_lines import lines_of
from tasks.runner.key import file_md5, locked_key, path_md5
from tasks.runner.lock import locked_in, md5s
from tasks.runner.timings import facts_of
from tasks.runner.timings import paths as timings_paths

EVALUATE = "evaluate@"  # evaluate@<model>: the stage whose figures are a row of the models' table


@dataclass(frozen=True)
class Stage:
    """One stage and its figures; all empty unless what is on disk is current."""

    name: str
    needs: list[str]
    folder: Path
    current: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Points] = field(default_factory=dict)

    @property
    def model(self) -> str | None:
        """The model this stage evaluated, if it is an evaluation."""
        return self.name.removeprefix(EVALUATE) if self.name.startswith(EVALUATE) else None

    @property
    def drops(self) -> dict[str, int]:
        """Documents dropped or quarantined by reason, the commonest first."""
        prefixes = ("dropped_", "quarantined_")
        found = {k.removeprefix(p): int(v) for p in prefixes for k, v in self.metrics.items() if k.startswith(p) and v}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    @property
    def flow(self) -> tuple[int, int] | None:
        """Documents in and kept, for a stage that counts documents."""
        kept = self.metrics.get("kept", self.metrics.get("documents"))
        if kept is None:
            return None
        given = self.metrics["documents"] if "kept" in self.metrics and "documents" in self.metrics else kept
        return int(max(given, kept + sum(self.drops.values()))), int(kept)


@dataclass(frozen=True)
class Facts:
    """Code and parameters of a run. dirty: whether the tree differs from the revision; None where git cannot tell."""

    revision: str | None
    dirty: bool | None
    params: dict[str, Any]

    @property
    def digest(self) -> str:
        """Digest of the parameters, whatever their order or layout in the file."""
        return hashlib.sha256(json.dumps(self.params, sort_keys=True).encode()).hexdigest()[:12]


def read_stages(root: Path) -> list[Stage]:
    """Every stage of the graph that is asked for or current, with its figures if it is current; none where dvc.yaml or
    params.yaml is missing."""
    if not all((root / name).exists() for name in ("dvc.yaml", "params.yaml")):
        return []
    graph = read_graph(root)
    makers = {out: address for address, entry in graph.items() for out in entry.outs}
    fresh, locked = current(root, graph, makers), locked_in(root)
    every = [_stage(root, e, makers, e.address in fresh, locked and locked.get(e.address)) for e in graph.values()]
    asked = set(goals_with_upstream(graph))
    return [stage for stage in every if stage.name in asked or stage.current]


def _stage(root: Path, entry: Entry, makers: dict[str, str], fresh: bool, locked: dict[str, Any] | None) -> Stage:
    """locked: its entry of dvc.lock, to which figures and times belong or are not shown; None where there is no lock."""
    needs = list(dict.fromkeys(makers[dep] for dep in entry.deps if dep in makers))
    folder = root / (entry.outs[0] if entry.outs else f"data/{entry.name}")
    recorded = md5s(locked, "outs")
    fresh = fresh and not any(is_another(root, path, recorded[path]) for path in entry.outs if path in recorded)
    metrics = locked_metrics(root, entry.address, locked) if fresh else {}
    if not metrics:
        return Stage(entry.address, needs, folder)
    timings = (
        facts_of(root, entry.address, locked_key(locked))
        if locked
        else read_json(root / timings_paths(entry.address)[0])
    )
    return Stage(entry.address, needs, folder, True, metrics, timings, read_curves(folder / "curves.jsonl"))


def not_comparable(stages: list[Stage]) -> str:
    """Why bits per byte tell nothing beside those of another tokenizer; "" where they do."""
    share = next((s.metrics["characters_lost"] for s in stages if s.metrics.get("characters_lost")), 0.0)
    if not share:
        return ""
    return (
        f"The tokenizer loses {share:.2%} of the characters: bits per byte are not comparable with another tokenizer's."
    )


def locked_metrics(root: Path, address: str, locked: dict[str, Any] | None) -> dict[str, float]:
    """The metrics of a stage, if they are those that its entry of dvc.lock records; a file of another run is none."""
    path = f"data/metrics/{address}.json"
    recorded = md5s(locked, "outs").get(path)
    if recorded and (not (root / path).exists() or file_md5(root / path) != recorded):
        return {}
    return read_json(root / path)


def is_given(path: str) -> bool:
    """Whether a dependency is data: below data/, or of the user's own outside the checkout."""
    return path.startswith(("data/", "..")) or Path(path).is_absolute()


def current(root: Path, graph: dict[str, Entry], makers: dict[str, str]) -> set[str]:
    """The stages that dvc.lock says were made from the present parameters, code and upstream data; all without a lock.

    makers: the stage that makes a path. Source data is not hashed again here, only code and what stages made.
    """
    locked = locked_in(root)
    if locked is None:
        return set(graph)
    made = {path: md5 for entry in locked.values() for path, md5 in md5s(entry, "outs").items()}
    code = sorted({dep for entry in graph.values() for dep in entry.deps if not is_given(dep)})
    ignored = read_ignored(root)
    # where the process stands is no matter: other threads, of a study, read other checkouts
    made |= {dep: path_md5(Path(ignored.root, dep), ignored) for dep in code if (root / dep).exists()}
    params = read_params(root)
    fresh: set[str] = set()
    waiting = [address for address in graph if address in locked]
    while ready := [a for a in waiting if _agrees(graph[a], locked[a], params, makers, made, fresh)]:
        fresh.update(ready)
        waiting = [address for address in waiting if address not in fresh]
    return fresh


def _agrees(
    entry: Entry, locked: dict, params: dict, makers: dict[str, str], made: dict[str, str], fresh: set[str]
) -> bool:
    """Whether the lock's entry has the present command, params and digests, and what it stands on is fresh too. As to DVC, what
    it has of params that dvc.yaml no longer declares is no matter.

    made: the present digest of a path, where it is known.
    """
    recorded, declared = locked.get("params", {}).get("params.yaml", {}), entry.declared(params)
    if locked.get("cmd") != entry.cmd:
        return False
    if any(name not in declared or name not in recorded or declared[name] != recorded[name] for name in entry.params):
        return False
    digests = md5s(locked, "deps")
    unknown = {path: md5 for path, md5 in digests.items() if is_given(path) and path not in made}
    return (
        set(digests) == set(entry.deps)
        and all(makers[path] in fresh for path in digests if path in makers)
        and all((made | unknown).get(path) == md5 for path, md5 in digests.items())
    )


def read_params(root: Path) -> dict[str, Any]:
    path = root / "params.yaml"
    return (read_yaml(path) or {}) if path.exists() else {}


def read_json(path: Path) -> dict[str, float]:
    """A flat JSON object; empty when there is no such file. Raises ValueError naming a torn one."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}; force its stage to run again") from None


def read_curves(path: Path) -> dict[str, Points]:
    """The points of each curve in the order logged. Raises ValueError naming a line that is not JSON."""
    curves: dict[str, Points] = {}
    if not path.exists():
        return curves
    for number, line in enumerate(lines_of(path.read_text(encoding="utf-8")), 1):
        try:
            point = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not JSON: {error}") from None
        step = point.pop("step")
        for name, value in point.items():
            curves.setdefault(name, []).append((step, value))
    return curves


def read_facts(root: Path) -> Facts:
    """Revision and parameters; no revision where git knows none. What a run itself writes is no change."""
    known = (root / ".git").exists()
    commit, dirty = (revision(root), is_dirty(root)) if known else (UNKNOWN, UNKNOWN)
    return Facts(
        None if commit == UNKNOWN else commit[:12], None if dirty == UNKNOWN else dirty == "true", read_params(root)
    )

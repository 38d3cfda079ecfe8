"""What the stages left behind, stage by stage in the order of dvc.yaml. Whatever is missing is None or empty."""

import hashlib
import json
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.core.git import ask
from tasks.core.graph import Entry, read_graph
from tasks.core.key import path_md5, read_ignored
from tasks.core.yaml import read_yaml
from tasks.report.chart import Points

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
    """Which code and which parameters."""

    revision: str | None
    dirty: bool
    params: dict[str, Any]

    @property
    def digest(self) -> str:
        """Of the parameters, whatever their order or layout in the file."""
        return hashlib.sha256(json.dumps(self.params, sort_keys=True).encode()).hexdigest()[:12]


def read_stages(root: Path) -> list[Stage]:
    """Every stage of the graph, with its figures if it is current; none where dvc.yaml or params.yaml is missing."""
    if not all((root / name).exists() for name in ("dvc.yaml", "params.yaml")):
        return []
    graph = read_graph(root)
    makers = {out: address for address, entry in graph.items() for out in entry.outs}
    fresh = current(root, graph, makers)
    return [_stage(root, entry, makers, entry.address in fresh) for entry in graph.values()]


def _stage(root: Path, entry: Entry, makers: dict[str, str], fresh: bool) -> Stage:
    needs = list(dict.fromkeys(makers[dep] for dep in entry.deps if dep in makers))
    folder = root / (entry.outs[0] if entry.outs else f"data/{entry.name}")
    metrics = read_json(root / "data" / "metrics" / f"{entry.address}.json") if fresh else {}
    if not metrics:
        return Stage(entry.address, needs, folder)
    timings = read_json(root / "data" / "timings" / f"{entry.address}.json")
    return Stage(entry.address, needs, folder, True, metrics, timings, read_curves(folder / "curves.jsonl"))


def current(root: Path, graph: dict[str, Entry], makers: dict[str, str]) -> set[str]:
    """The stages that dvc.lock says were made from the present parameters, code and upstream data; all without a lock.

    makers: the stage that makes a path. Source data is not hashed again here, only code and what stages made.
    """
    path = root / "dvc.lock"
    if not path.exists():
        return set(graph)
    locked = (read_yaml(path) or {}).get("stages", {})
    made = {out["path"]: out.get("md5") for entry in locked.values() for out in entry.get("outs", [])}
    code = sorted({dep for entry in graph.values() for dep in entry.deps if not dep.startswith("data/")})
    ignored = read_ignored(root)
    with chdir(root):  # .dvcignore speaks of paths as the graph names them
        made |= {dep: path_md5(Path(dep), ignored) for dep in code if Path(dep).exists()}
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
    """Whether the lock's entry has the present command, params and digests, and what it stands on is fresh too.

    made: the present digest of a path, where it is known.
    """
    recorded = locked.get("params", {}).get("params.yaml", {})
    if locked.get("cmd") != entry.cmd or any(_at(params, key) != value for key, value in recorded.items()):
        return False
    digests = {dep["path"]: dep.get("md5") for dep in locked.get("deps", [])}
    unknown = {path: md5 for path, md5 in digests.items() if path.startswith("data/") and path not in made}
    return (
        set(digests) == set(entry.deps)
        and all(makers[path] in fresh for path in digests if path in makers)
        and all((made | unknown).get(path) == md5 for path, md5 in digests.items())
    )


def _at(params: dict, key: str) -> Any:
    value: Any = params
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


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
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            point = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not JSON: {error}") from None
        step = point.pop("step")
        for name, value in point.items():
            curves.setdefault(name, []).append((step, value))
    return curves


def read_facts(root: Path) -> Facts:
    """Revision and parameters; no revision outside a git repository. What a run itself writes is no change."""
    revision, dirty = None, False
    if (root / ".git").exists():
        revision = _git(root, "rev-parse", "--short=12", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain", "--", ".", ":!dvc.lock", ":!data/metrics"))
    return Facts(revision or None, dirty, read_params(root))


def _git(root: Path, *arguments: str) -> str:
    done = ask(root, *arguments)
    return done.stdout.strip() if done.returncode == 0 else ""

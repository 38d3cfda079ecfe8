"""Which stages there are, in order, what each waits for, and why it is stale: DVC's answers, in one process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
from dvc.repo import Repo


@dataclass(frozen=True)
class Planned:
    """A stage: its address, the stages it waits for, its meta, and why it is stale (None: it is up to date)."""

    address: str
    after: list[str]
    meta: dict[str, Any]
    reason: str | None


def reason_of(status: list[Any]) -> str:
    """One sentence out of what `dvc status` says of a stage."""
    found: dict[str, list[str]] = {}
    for part in status:
        if isinstance(part, str):
            found.setdefault(part, [])
            continue
        for kind, changes in part.items():
            for path, change in changes.items():
                if isinstance(change, dict):
                    found.setdefault("changed params", []).extend(name for names in [change] for name in names)
                else:
                    found.setdefault(
                        kind if change == "modified" else f"{change} {kind.removeprefix('changed ')}", []
                    ).append(path)
    never = "deleted outs" in found or "not in cache outs" in found
    if never and any(path.startswith("data/") for path in found.get("deleted outs", [])):
        return "its output is not there"
    words = {
        "changed deps": "changed",
        "changed outs": "its output was changed",
        "changed params": "changed parameters",
    }
    return "; ".join(
        f"{words.get(kind, kind)}: {', '.join(sorted(names))}" if names else kind for kind, names in found.items()
    )


def wanted(order: list[str], after: dict[str, list[str]], targets: list[str]) -> list[str]:
    """The targets and all that they wait for, in order; everything when there are no targets."""
    if not targets:
        return order
    keep = {address for address in order if address in targets or address.partition("@")[0] in targets}
    for address in reversed(order):
        if address in keep:
            keep.update(after[address])
    return [address for address in order if address in keep]


def make_plan(root: Path, targets: list[str]) -> list[Planned]:
    """The stages that the targets need, each after those it waits for."""
    with Repo(str(root)) as repo:
        graph = repo.index.graph
        stages = {stage.addressing: stage for stage in nx.dfs_postorder_nodes(graph)}
        after = {address: sorted(s.addressing for s in graph.successors(stage)) for address, stage in stages.items()}
        status = repo.status()
    chosen = wanted(list(stages), after, targets)
    return [
        Planned(
            a, [b for b in after[a] if b in chosen], stages[a].meta or {}, reason_of(status[a]) if a in status else None
        )
        for a in chosen
    ]


def may_run(plan: list[Planned]) -> list[Planned]:
    """The stale stages and all that follow them: at most these run, fewer when a rerun gives the same bytes."""
    found: dict[str, Planned] = {}
    for stage in plan:
        if stage.reason or any(before in found for before in stage.after):
            found[stage.address] = stage
    return list(found.values())


def as_markdown(plan: list[Planned]) -> str:
    """The plan as a table."""
    running = {stage.address for stage in may_run(plan)}
    rows = [
        f"| {s.address} | {'may run' if s.address in running else 'up to date'} | "
        f"{s.reason or ('follows ' + ', '.join(b for b in s.after if b in running) if s.address in running else '')} |"
        for s in plan
    ]
    return "\n".join(["| stage | plan | why |", "|---|---|---|", *rows])

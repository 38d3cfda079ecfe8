"""Which stages there are, in order, what each waits for, and why it is stale: DVC's answers, in one process."""

from collections.abc import Iterator
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networkx as nx
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.stage import PipelineStage, Stage

from flows.staleness.changes import Change, changes_of
from flows.staleness.rwlock import release_ended
from flows.staleness.signatures import Signatures, recall, remember
from lm.inputs.hashed import check_not_ignored, read_ignored, scan_dependency
from tasks.core.config import ConfigError
from tasks.runner.graph import Entry, goals, read_graph

NAMED = 6  # differences that a plan names of each stage; `make why` has all


@dataclass(frozen=True)
class PlannedStage:
    """A stage: its address, the stages it waits for, its meta, and why it is stale (None: it is up to date), in one sentence
    and difference by difference."""

    address: str
    after: list[str]
    meta: dict[str, Any]
    reason: str | None
    changes: list[Change] = field(default_factory=list)


def reason_of(changes: list[Change]) -> str:
    """One sentence: `rl.steps: 40 -> 50; tasks/rl/rollout.py changed`."""
    words = [change.words for change in changes]
    more = [f"and {len(words) - NAMED} more"] if len(words) > NAMED else []
    return "; ".join(words[:NAMED] + more)


def with_ancestors(order: list[str], after: dict[str, list[str]], targets: list[str]) -> list[str]:
    """The targets and all that they wait for, in order."""
    keep = {address for address in order if address in targets or address.partition("@")[0] in targets}
    for address in reversed(order):
        if address in keep:
            keep.update(after[address])
    return [address for address in order if address in keep]


def make_plan(root: Path, targets: list[str]) -> list[PlannedStage]:
    """The stages that the targets need, or the goals where there are no targets, each after those it waits for. Raises
    ConfigError where DVC is at work on one, and for an input or a file of its own that DVC cannot take."""
    check_inputs(root, read_graph(root))
    release_ended(root)
    with dvc_errors_as_config_errors(), Repo(str(root)) as repo:
        graph = repo.index.graph
        stages = {stage.addressing: stage for stage in nx.dfs_postorder_nodes(graph)}
        after = {address: sorted(s.addressing for s in graph.successors(stage)) for address, stage in stages.items()}
        metas = {address: stage.meta or {} for address, stage in stages.items()}
        chosen = with_ancestors(list(stages), after, targets or goals(metas))
        piped = [stage for stage in stages.values() if isinstance(stage, PipelineStage)]  # the others are .dvc files
        locked = piped[0].dvcfile.lockfile_contents.get("stages", {}) if piped else {}
        status = status_of(repo, root, {a: stages[a] for a in chosen}, locked)
        changes = {a: changes_of(repo, stages[a], status[a], locked.get(a)) for a in chosen if a in status}
    return [
        PlannedStage(
            a,
            [b for b in after[a] if b in chosen],
            metas[a],
            reason_of(changes[a]) if a in changes else None,
            changes.get(a, []),
        )
        for a in chosen
    ]


def check_inputs(root: Path, graph: dict[str, Entry]) -> None:
    """Raises ConfigError, one line, for an input that DVC cannot hash: it would say so with a traceback, or wait for ever; and
    for one that it ignores, whose changes it would not see."""
    made = {out for entry in graph.values() for out in entry.outs}
    with chdir(root):
        ignored = read_ignored()
        for path in sorted({dep for entry in graph.values() for dep in entry.deps} - made):
            check_not_ignored(Path(path), ignored)
            scan_dependency(Path(path), ignored)


@contextmanager
def dvc_errors_as_config_errors() -> Iterator[None]:
    """What DVC cannot read or hash becomes a ConfigError of one line."""
    try:
        yield
    except (DvcException, OSError) as error:
        raise ConfigError(f"DVC: {' '.join(str(error).split())}") from None


def status_of(repo: Repo, root: Path, stages: dict[str, Stage], locked: dict[str, Any]) -> dict[str, Any]:
    """What `dvc status` says of these stages: nothing of one that is up to date. DVC itself reads dvc.yaml and dvc.lock
    anew for each target, 1.1 s of fifteen."""
    signatures, known = Signatures(), recall(root)
    found = {address: signatures.of(stage, locked.get(address)) for address, stage in stages.items()}
    asked = [address for address, (signature, _) in found.items() if known.get(address) != signature]
    try:
        status = dict[str, Any]()
        with lock_repo(repo) if asked else nullcontext():
            for address in asked:
                status |= stages[address].status(check_updates=True)
    except LockError as error:
        who = str(error).partition("\n\n")[0]  # after it DVC says how to delete its table
        raise ConfigError(f"a run is going on in {root}, ask again when it has ended: {who}") from None
    remember(root, {address: found[address] for address in asked if address not in status})
    return status


def may_run(plan: list[PlannedStage]) -> list[PlannedStage]:
    """The stale stages and all that follow them: at most these run, fewer when a rerun gives the same bytes."""
    found: dict[str, PlannedStage] = {}
    for stage in plan:
        if stage.reason or any(before in found for before in stage.after):
            found[stage.address] = stage
    return list(found.values())


def as_markdown(plan: list[PlannedStage]) -> str:
    """The plan as a table."""
    running = {stage.address for stage in may_run(plan)}
    rows = [
        f"| {s.address} | {'may run' if s.address in running else 'up to date'} | "
        f"{s.reason or ('follows ' + ', '.join(b for b in s.after if b in running) if s.address in running else '')} |"
        for s in plan
    ]
    return "\n".join(["| stage | plan | why |", "|---|---|---|", *rows])

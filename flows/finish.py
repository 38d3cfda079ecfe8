"""What both `make pipeline` and `make repro` end with: the final model registered, the report, the table."""

import subprocess
from pathlib import Path

import networkx as nx
from dvc.repo import Repo

from flows.environment import ROOT
from flows.stages import md5_in_lock
from tasks.core.key import locked_key
from tasks.core.timings import settle
from tasks.core.tracking import register_model
from tasks.report.read import locked_metrics, read_lock
from tasks.report.render import render
from tasks.report.terminal import table

REGISTERED_AS = "tokenmill"


def final_model(root: Path) -> str | None:
    """The stage of the final model: the last in topological order whose output holds a config.json."""
    with Repo(str(root)) as repo:
        order = [stage.addressing for stage in nx.dfs_postorder_nodes(repo.index.graph)]
    models = [address for address in order if (root / "data" / address / "config.json").exists()]
    return models[-1] if models else None


def figures_of(root: Path, address: str, md5: str) -> dict[str, float]:
    """What the evaluation found of the model with this md5; empty where it has looked at another one, or at none."""
    evaluation = f"evaluate@{address}"
    entry = (read_lock(root) or {}).get(evaluation, {})
    looked_at = {dep["path"]: dep.get("md5") for dep in entry.get("deps", [])}
    return locked_metrics(root, evaluation, entry) if looked_at.get(f"data/{address}") == md5 else {}


def finish(root: Path, revision: str) -> Path | None:
    """Register the final model, render the report, print the table; returns the page."""
    address = final_model(root)
    md5 = md5_in_lock(root, address, f"data/{address}") if address else None
    if address and md5:
        metrics = figures_of(root, address, md5)
        version = register_model(REGISTERED_AS, address, f"data/{address}", md5, revision, metrics)
        if version:
            print(f"model {REGISTERED_AS} version {version}: data/{address}, md5 {md5}")
    for stage, entry in (
        read_lock(root) or {}
    ).items():  # `dvc repro` by itself brings back bytes and not what they took
        settle(root, stage, locked_key(entry))
    page = render(root)
    print(table(root))
    print(f"report: {page}")
    return page


if __name__ == "__main__":
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    finish(Path.cwd(), head.stdout.strip())

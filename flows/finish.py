"""What both `make pipeline` and `make repro` end with: the final model registered, the report, the table."""

import json
from pathlib import Path

import networkx as nx
from dvc.repo import Repo

from flows.environment import ROOT
from flows.stages import md5_in_lock
from tasks.core.git import revision as revision_of
from tasks.core.tracking import register_model
from tasks.report.render import render
from tasks.report.terminal import table

REGISTERED_AS = "tokenmill"


def final_model(root: Path) -> str | None:
    """The stage of the final model: the last in topological order whose output holds a config.json."""
    with Repo(str(root)) as repo:
        order = [stage.addressing for stage in nx.dfs_postorder_nodes(repo.index.graph)]
    models = [address for address in order if (root / "data" / address / "config.json").exists()]
    return models[-1] if models else None


def finish(root: Path, revision: str) -> Path | None:
    """Register the final model, render the report, print the table; returns the page."""
    address = final_model(root)
    md5 = md5_in_lock(root, address, f"data/{address}") if address else None
    if address and md5:
        figures = root / "data" / "metrics" / f"evaluate@{address}.json"
        metrics = json.loads(figures.read_text()) if figures.exists() else {}
        version = register_model(REGISTERED_AS, address, f"data/{address}", md5, revision, metrics)
        if version:
            print(f"model {REGISTERED_AS} version {version}: data/{address}, md5 {md5}")
    page = render(root)
    print(table(root))
    print(f"report: {page}")
    return page


if __name__ == "__main__":
    finish(Path.cwd(), revision_of(ROOT))

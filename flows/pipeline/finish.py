"""What both `make pipeline` and `make repro` end with: the final model registered, the report, the table."""

import os
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

import networkx as nx
from dvc.repo import Repo

from flows.environment import ROOT
from flows.pipeline.naming import named
from tasks.report.history import FINISHED, Run, add_run
from tasks.report.history import figures_of as current_figures
from tasks.report.read import locked_metrics, read_params, read_stages
from tasks.report.render import render
from tasks.report.terminal import table
from tasks.runner.git import revision as revision_of
from tasks.runner.key import locked_key
from tasks.runner.lock import locked_in, md5_in_lock, md5s
from tasks.runner.machine import hardware
from tasks.runner.registry import register_model
from tasks.runner.timings import settle

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
    entry = (locked_in(root) or {}).get(evaluation, {})
    return locked_metrics(root, evaluation, entry) if md5s(entry, "deps").get(f"data/{address}") == md5 else {}


def put_down(root: Path, name: str, outcome: str) -> Path:
    """Put down how a run of this name ended, and write the page that says so; returns the page."""
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    machine = hardware()
    words = ", ".join(filter(None, [machine.get("cpu", ""), machine.get("gpu", ""), f"{os.cpu_count()} cores"]))
    add_run(root, Run(name, now, words, outcome, read_params(root), current_figures(read_stages(root))))
    return render(root)


def finish(root: Path, revision: str, name: str, asked: Collection[str] | None = None) -> Path:
    """Register the final model, put the run down, render the report, print the table of the stages that were asked for (None:
    all); returns the page."""
    address = final_model(root)
    md5 = md5_in_lock(root, address, f"data/{address}") if address else None
    if address and md5:
        metrics = figures_of(root, address, md5)
        version = register_model(REGISTERED_AS, address, f"data/{address}", md5, revision, metrics)
        if version:
            print(f"model {REGISTERED_AS} version {version}: data/{address}, md5 {md5}")
    for stage, entry in (
        locked_in(root) or {}
    ).items():  # `dvc repro` by itself brings back bytes and not what they took
        settle(root, stage, locked_key(entry))
    page = put_down(root, name, FINISHED)
    print(table(root, asked))
    print(f"report: {page}")
    return page


if __name__ == "__main__":
    here = Path.cwd()
    finish(here, revision_of(ROOT), named(here, read_params(here))[1])

"""What both `make pipeline` and `make repro` end with: the final model registered, the report, the table."""

import os
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

from flows.environment import ROOT
from flows.pipeline.naming import named
from tasks.core.config import MODELS
from tasks.report.history import FINISHED, Run, add_run
from tasks.report.history import metrics_by_stage as current_figures
from tasks.report.read import locked_metrics, read_params, read_stages
from tasks.report.render import render
from tasks.report.terminal import table
from tasks.runner.git import revision as revision_of
from tasks.runner.graph import read_graph
from tasks.runner.key import locked_key
from tasks.runner.lock import locked_in, md5_in_lock, md5s
from tasks.runner.machine import hardware
from tasks.runner.registry import register_model
from tasks.runner.timings import restore_timings

REGISTERED_AS = "tokenmill"


def final_model(root: Path) -> str | None:
    """The stage of the final model: the last of the models that are asked for, or of all stages where no list says which, whose
    output holds a config.json. The checkpoint is not ours."""
    graph = read_graph(root)
    asked = [model for model in read_params(root).get(MODELS, graph) if model in graph]
    models = [address for address in asked if (root / "data" / address / "config.json").exists()]
    return models[-1] if models else None


def figures_of(root: Path, model: str, md5: str) -> dict[str, float]:
    """What the stage that looks at this model found of the one with this md5; empty where it has looked at another one, or
    where none does."""
    lock = locked_in(root) or {}
    for address in (address for address, entry in read_graph(root).items() if entry.item == model):
        entry = lock.get(address, {})
        if md5s(entry, "deps").get(f"data/{model}") == md5:
            return locked_metrics(root, address, entry)
    return {}


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
        restore_timings(root, stage, locked_key(entry))
    page = put_down(root, name, FINISHED)
    print(table(root, asked))
    print(f"report: {page}")
    return page


def end() -> None:
    """Finish the run that plain DVC has made of the project here."""
    here = Path.cwd()
    finish(here, revision_of(ROOT), named(here, read_params(here))[1])


if __name__ == "__main__":
    end()

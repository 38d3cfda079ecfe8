"""Whether a stage is asked for: plain `dvc repro`, which knows no goals, starts those too that lead to none."""

import os

import psutil

from tasks.core.config import ConfigError
from tasks.runner.graph import Entry, goals_with_upstream
from tasks.runner.guardian import HELD, dvc_process


def targets_of(words: list[str]) -> list[str]:
    """The targets in a command line of `dvc repro`."""
    return [word for word in words[words.index("repro") + 1 :] if not word.startswith("-")]


def check_asked(address: str, graph: dict[str, Entry]) -> None:
    """Raise ConfigError for a stage that leads to no goal and that nobody named: `dvc repro` without targets has started it."""
    if "DVC_STAGE" not in os.environ or HELD in os.environ or address in goals_with_upstream(graph):
        return
    dvc = dvc_process()
    try:
        words = dvc.cmdline() if dvc else []
    except psutil.Error:
        return
    if "repro" in words and not targets_of(words):
        names = dict.fromkeys(entry.name for entry in graph.values() if entry.meta.get("goal"))
        raise ConfigError(
            f"{address}: leads to nothing that is asked for, so it does not run: `dvc repro {' '.join(names)}` or `make repro` "
            f"leaves it out, `dvc repro {address}` asks for it"
        )

"""The environment of every process that we start: our Python first, telemetry off, nothing outside the project."""

import os
import sys
from pathlib import Path

from tasks.runner.own import stand_ins
from tasks.runner.proxies import without_proxy

ROOT = Path(__file__).parent.parent


def environment(root: Path) -> dict[str, str]:
    """What a child process gets on top of what is set already.

    `python` in dvc.yaml is the Python that runs us; Prefect's profile and DVC's state stay under .scratch.
    """
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "SHELL": "/bin/bash",
        **stand_ins(),
        **without_proxy(),
        **without_git(root),
        # OpenMP threads that spin long at a barrier slow a stage 1.7 to 4 times as soon as one other process computes; a
        # short spin costs 1.06 of none then, and with the machine to itself nothing (2 cores, the default model, torch 2.13)
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(root / ".scratch" / "dvc"),
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": os.environ.get("PREFECT_HOME", str(root / ".scratch" / "prefect")),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_TASKS_DEFAULT_NO_CACHE": "true",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the flow says what matters itself
    }


def without_git(root: Path) -> dict[str, str]:
    """What has DVC work in a folder that is no git repository, such as an archive or an image's layer: settings below .dvc that
    it reads in place of the system's."""
    return {} if (root / ".git").exists() else {"DVC_SYSTEM_CONFIG_DIR": str(root / ".dvc" / "without_git")}

"""The DVC remote, where one is configured: a few bytes put there and taken away, through DVC's own file system objects."""

import os
import queue
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from dvc.config import Config
from dvc.fs import get_cloud_fs

from flows.preflight.repository import dvc_config
from flows.preflight.services import without_password
from tasks.about.finding import Finding, one_line

# A host that drops packets would be waited for by its library for minutes.
SECONDS = 30.0
REMEDY = (
    "see `dvc remote list`, its credentials in .dvc/config.local or the environment, or `dvc remote default --unset`"
)


def check_remote(root: Path) -> Iterator[Finding]:
    """Why the default remote cannot be used; nothing without one. A put that does not answer within SECONDS counts as
    unreachable."""
    config = dvc_config(root)
    name = config["core"].get("remote")
    if not name:
        return
    if name not in config["remote"]:
        yield Finding(
            f".dvc/config: core.remote {name}", "no such remote", "`dvc remote add` it, or `dvc remote default --unset`"
        )
        return
    where = f"DVC remote {name} ({without_password(config['remote'][name].get('url', ''))})"
    said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=lambda: said.put(trouble_of(config, name)), daemon=True).start()
    try:
        trouble = said.get(timeout=SECONDS)
    except queue.Empty:
        trouble = f"does not answer within {SECONDS:.0f} s"
    if trouble:
        yield Finding(where, trouble, REMEDY)


def trouble_of(config: Config, name: str) -> str | None:
    """Why a tiny object cannot be put into a remote and deleted; None when it can."""
    try:
        kind, settings, folder = get_cloud_fs(config, name=name)
        store = kind(**settings)
        path = store.join(folder, f".preflight-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        made = [folder] if store.protocol == "local" and not store.exists(folder) else []
        store.makedirs(folder, exist_ok=True)
        store.pipe_file(path, b"preflight")
        store.remove(path)
        for empty in made:
            os.rmdir(empty)
    except Exception as error:  # noqa: BLE001 - each store has errors of its own; all mean the same here
        return f"cannot be written to: {type(error).__name__}: {one_line(error)}"
    return None

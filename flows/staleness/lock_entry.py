"""One stage's entry of dvc.lock, read without DVC, which takes 0.2 s to import."""

from pathlib import Path
from typing import Any

from tasks.core.yaml import YAMLError, read_yaml


def lock_entry(root: Path, address: str) -> Any:
    """What dvc.lock says of a stage; None when nothing. DVC rewrites the file in place, so a torn read is tried again."""
    path = root / "dvc.lock"
    for _ in range(100):
        try:
            return (read_yaml(path) or {}).get("stages", {}).get(address) if path.exists() else None
        except (YAMLError, AttributeError):
            continue
    raise RuntimeError(f"{path}: not valid YAML; `git checkout dvc.lock` brings back the committed one")


def md5_in_lock(root: Path, address: str, out: str) -> str | None:
    """DVC's md5 of an output as dvc.lock has it; None when it says nothing of it. A stage's metrics are an output too."""
    outs = (lock_entry(root, address) or {}).get("outs", [])
    return next((found["md5"] for found in outs if found["path"] == out), None)

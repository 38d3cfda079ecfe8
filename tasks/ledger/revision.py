"""The data of a git revision, as its dvc.lock names it and DVC's cache still holds it: a folder of links."""

import configparser
import json
from pathlib import Path

from lm.config import ConfigError
from tasks.core.yaml import parse_yaml
from tasks.runner.git import run_git


def data_of(root: Path, revision: str, into: Path) -> Path:
    """into/data with a link for each cached file of each output; what the cache lacks is absent.

    Raises ConfigError where the revision has no dvc.lock, or the cache nothing of it.
    """
    shown = run_git(root, "show", f"{revision}:dvc.lock")
    if shown.returncode:
        raise ConfigError(f"RUN={revision}: neither a data folder nor a git revision with a dvc.lock")
    objects, linked = cache_of(root) / "files" / "md5", 0
    for stage in (parse_yaml(shown.stdout) or {}).get("stages", {}).values():
        for out in stage.get("outs", []):
            listing = object_of(objects, out["md5"])
            if not out["md5"].endswith(".dir") or not listing.exists():
                continue
            for entry in json.loads(listing.read_text()):
                link = into / out["path"] / entry["relpath"]
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(object_of(objects, entry["md5"]).absolute())
                linked += 1
    if not linked:
        raise ConfigError(f"RUN={revision}: {objects} holds nothing of it; `dvc fetch` brings it from the remote")
    return into / "data"


def object_of(objects: Path, md5: str) -> Path:
    """Where DVC 3 keeps the bytes with this digest."""
    return objects / md5[:2] / md5[2:]


def cache_of(root: Path) -> Path:
    """DVC's cache: what .dvc/config.local or .dvc/config says, relative to .dvc, else .dvc/cache."""
    config = configparser.ConfigParser(interpolation=None)
    config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"])
    return root / ".dvc" / config.get("cache", "dir", fallback="cache")

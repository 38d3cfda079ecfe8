"""What dvc.lock records of the stages, read without DVC, which takes 0.2 s to import."""

import time
from pathlib import Path
from typing import Any

from tasks.core.yaml import YAMLError, parse_yaml

# One stage as dvc.lock has it: cmd, deps and outs (path, md5, size of each), params by file and key
Entry = dict[str, Any]
# DVC writes the file in place, piece by piece: what is cut off is read again until nothing has been added for so long.
WRITING_SECONDS = 10.0


def entries_of(text: str, path: Path | str = "dvc.lock") -> dict[str, Entry]:
    """The entries by stage. Raises ValueError naming `path` when the text is no lock file."""
    try:
        return dict(parse_yaml(text)["stages"])
    except (YAMLError, KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path}: not a lock file of DVC; `git checkout dvc.lock` brings back the committed one"
        ) from None


def read_lock(path: Path) -> dict[str, Entry]:
    """The entries by stage of a lock file, once DVC has written it. Raises ValueError naming it when it is missing or none."""
    while True:
        try:
            return entries_of(path.read_text(), path)
        except FileNotFoundError:
            raise ValueError(f"{path}: no such lock file") from None
        except ValueError:
            if not path.exists() or time.time() - path.stat().st_mtime > WRITING_SECONDS:
                raise
            time.sleep(0.01)


def locked_in(root: Path) -> dict[str, Entry] | None:
    """The entries by stage of root/dvc.lock, None where there is no such file. Raises ValueError when it is not a lock file."""
    path = root / "dvc.lock"
    return read_lock(path) if path.exists() else None


def lock_entry(root: Path, address: str) -> Entry | None:
    """What root/dvc.lock records of a stage, None when nothing. Raises ValueError when it is not a lock file."""
    return (locked_in(root) or {}).get(address)


def md5s(entry: Entry | None, kind: str) -> dict[str, str]:
    """DVC's md5 of each dependency (`deps`) or output (`outs`) of an entry, by path; "" of what has none."""
    return {item["path"]: str(item.get("md5", "")) for item in (entry or {}).get(kind) or []}


def md5_in_lock(root: Path, address: str, out: str) -> str | None:
    """DVC's md5 of an output of a stage, metrics among them, None where root/dvc.lock says nothing of it."""
    return md5s(lock_entry(root, address), "outs").get(out) or None

"""dvc.lock in parts: some of its entries as a lock of their own, and one entry put into it, whole or not at all."""

from pathlib import Path
from typing import Any

from dvc.repo import Repo, lock_repo
from dvc.utils.serialize import YAMLError, dumps_yaml, parse_yaml, parse_yaml_for_update

from flows.staleness.lock_entry import lock_entry
from lm.files import write_text

Entry = dict[str, Any]
SCHEMA = "2.0"


def lock_of(entries: dict[str, Entry]) -> str:
    """The text of a dvc.lock that holds these entries, as DVC writes it."""
    return dumps_yaml({"schema": SCHEMA, "stages": entries})


def part_of(root: Path, addresses: list[str]) -> str:
    """The text of a lock with the entries of these stages alone. Raises ValueError naming one that has none."""
    entries = {address: lock_entry(root, address) for address in addresses}
    for address, entry in entries.items():
        if entry is None:
            raise ValueError(f"dvc.lock: has no entry of {address}; bring that stage up to date first")
    return lock_of(entries)


def entries_of(text: str, path: str = "dvc.lock") -> dict[str, Entry]:
    """The entries by stage. Raises ValueError when the text is no lock."""
    try:
        return dict(parse_yaml(text, path)["stages"])
    except (YAMLError, KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path}: not a lock file of DVC; `git checkout dvc.lock` brings back the committed one"
        ) from None


def md5s(entry: Entry, kind: str) -> dict[str, str]:
    """md5 of each dependency (`deps`) or output (`outs`) of an entry, by path."""
    return {item["path"]: item["md5"] for item in entry.get(kind, [])}


def merge(root: Path, address: str, entry: Entry) -> bool:
    """Put the entry of a stage into root/dvc.lock, all others kept as they are; returns whether that changed it.

    Under DVC's own lock, so that no `dvc repro` next to it loses an entry; by a rename, so that neither a reader nor a kill
    ever meets half a file, which DVC's own writing allows. Raises ValueError for a lock that cannot be read, and leaves it.
    """
    path = root / "dvc.lock"
    with Repo(str(root), _wait_for_lock=True) as repo, lock_repo(repo):
        text = path.read_text() if path.exists() else lock_of({})
        if entries_of(text, str(path)).get(address) == entry:
            return False
        whole = parse_yaml_for_update(text, path)
        whole["stages"][address] = entry
        write_text(path, dumps_yaml(whole), durable=True)
    return True

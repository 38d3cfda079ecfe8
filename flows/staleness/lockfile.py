"""dvc.lock in parts: some of its entries as a lock of their own, or alone in it, and one entry put into it, whole or not at
all."""

from collections.abc import Collection
from pathlib import Path

from lm.files import write_text
from tasks.runner.lock import Entry, entries_of, lock_entry, locked_in

SCHEMA = "2.0"


def lock_of(entries: dict[str, Entry]) -> str:
    """The text of a dvc.lock that holds these entries, as DVC writes it."""
    from dvc.utils.serialize import dumps_yaml

    return dumps_yaml({"schema": SCHEMA, "stages": entries})


def part_of(root: Path, addresses: list[str]) -> str:
    """The text of a lock with the entries of these stages alone. Raises ValueError naming one that has none."""
    entries = {}
    for address in addresses:
        if (entry := lock_entry(root, address)) is None:
            raise ValueError(f"dvc.lock: has no entry of {address}; bring that stage up to date first")
        entries[address] = entry
    return lock_of(entries)


def keep_only(root: Path, addresses: Collection[str]) -> None:
    """Cut root/dvc.lock down to the entries of these stages: DVC writes the file whole behind every stage, 0.3 s of a processor
    for all of ours. Nobody else may be at it. Raises ValueError for a lock that cannot be read."""
    entries = locked_in(root) or {}
    kept = {address: entry for address, entry in entries.items() if address in addresses}
    if len(kept) == len(entries):
        return
    if kept:
        write_text(root / "dvc.lock", lock_of(kept))
    else:
        (root / "dvc.lock").unlink()


def merge(root: Path, address: str, entry: Entry) -> bool:
    """Put the entry of a stage into root/dvc.lock, all others kept as they are; returns whether that changed it.

    Under DVC's own lock, so that no `dvc repro` next to it loses an entry; by a rename, so that neither a reader nor a kill
    ever meets half a file, which DVC's own writing allows. Raises ValueError for a lock that cannot be read, and leaves it.
    """
    from dvc.repo import Repo, lock_repo
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    path = root / "dvc.lock"
    with Repo(str(root), _wait_for_lock=True) as repo, lock_repo(repo):
        text = path.read_text() if path.exists() else lock_of({})
        if entries_of(text, str(path)).get(address) == entry:
            return False
        whole = parse_yaml_for_update(text, path)
        whole["stages"][address] = entry
        write_text(path, dumps_yaml(whole), durable=True)
    return True

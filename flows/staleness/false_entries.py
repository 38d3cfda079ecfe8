"""What DVC has recorded of stages that read something else, found and taken out of dvc.lock and of DVC's run cache.

It comes about in two ways. Plain `dvc repro` reads parameters and files again when a stage has ended, and takes one that was
edited meanwhile for what made the output. And the run cache does not look at keys named `size` or `nfiles`: where a parameter
is called so, as dedup.near.shingle_words once was, it answers for one value with what was made with another.
"""

import copy
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lm.files import write_text
from tasks.core.unseen import unseen_keys
from tasks.core.yaml import YAMLError, read_yaml
from tasks.ledger.revision import cache_of, object_of
from tasks.runner.lock import entries_of
from tasks.runner.recorded import claim_of, differences, forget_run, is_true, locked_decisions

LOOKED = Path(".scratch") / "entries.looked"  # its time is that of the last look
TICK_NS = 20_000_000  # what a file's time may be late by


def take_out(root: Path) -> list[str]:
    """Take out what is false among that which came since the last look; a line for each, none where all is as it should be."""
    last, now = root / LOOKED, time.time_ns() - TICK_NS
    since = last.stat().st_mtime_ns if last.exists() else 0
    said = [f"dvc.lock: {name}: {words}; it is taken out, and runs again" for name, words in _drop_locked(root, since)]
    runs = list(false_runs(root, since))
    for path in runs:
        forget_run(path)
    last.parent.mkdir(exist_ok=True)
    last.touch()
    os.utime(last, ns=(now, now))
    return said + ([f"DVC's run cache: runs that it may take for others are taken out: {len(runs)}"] if runs else [])


def look_on_from(root: Path, folder: Path) -> None:
    """Have a new worktree with root's run cache look at what came there since root looked: all of it takes 4 ms an entry."""
    theirs, own = root / LOOKED, folder / LOOKED
    if theirs.exists() and not own.exists():
        own.parent.mkdir(exist_ok=True)
        own.touch()
        os.utime(own, ns=(theirs.stat().st_mtime_ns,) * 2)


def false_locked(root: Path, entries: dict[str, Any]) -> dict[str, str]:
    """Entries of dvc.lock that are false or cannot be told from one that is, each with what is wrong, in words."""
    found = {}
    for address, entry in entries.items():
        unseen = unseen_keys(entry.get("params", {}).get("params.yaml", {}), "")
        if not is_true(entry):
            found[address] = f"its output was made with {_words(_read(root, entry), entry)}"
        elif unseen:
            run = _run_of(root, entry)
            if run and locked_decisions(run) != locked_decisions(entry):
                found[address] = f"its output was made with {_words(locked_decisions(run), entry)}"
            else:
                names = ", ".join(name.lstrip(".") for name in unseen)
                found[address] = f"its output may be of another {names}, which DVC's run cache does not see"
    return found


def false_runs(root: Path, since: int) -> Iterator[Path]:
    """The files of the run cache that are not older than this time, in ns, and are false or have a parameter that it does not
    see."""
    for path in (cache_of(root) / "runs").glob("*/*/*"):
        with suppress(FileNotFoundError, YAMLError, KeyError, TypeError, AttributeError):
            if path.stat().st_ctime_ns >= since:
                entry = read_yaml(path)
                if not is_true(entry) or unseen_keys(entry.get("params", {}).get("params.yaml", {}), ""):
                    yield path


def _drop_locked(root: Path, since: int) -> list[tuple[str, str]]:
    path = root / "dvc.lock"
    if not path.exists() or path.stat().st_ctime_ns < since:
        return []
    with suppress(ValueError):  # DVC may be writing it, and is waited for below
        if not false_locked(root, entries_of(path.read_text())):
            return []
    from dvc.repo import Repo, lock_repo
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    with Repo(str(root), _wait_for_lock=True) as repo, lock_repo(repo):  # as DVC may write it at this moment
        try:
            text = path.read_text()
            found = false_locked(root, entries_of(text))
        except (FileNotFoundError, ValueError):  # gone meanwhile, or what a merge has left
            return []
        whole = parse_yaml_for_update(text, path)
        for address in found:
            del whole["stages"][address]
        if whole["stages"]:
            write_text(path, dumps_yaml(whole), durable=True)
        else:
            path.unlink()
    return list(found.items())


def _read(root: Path, entry: dict[str, Any]) -> dict[str, Any] | None:
    """What the stage of an entry says that it read; None where DVC's cache has it no more."""
    _, md5 = claim_of(entry) or ("", "")
    with suppress(OSError, ValueError):
        return json.loads(object_of(cache_of(root) / "files" / "md5", md5).read_text())
    return None


def _words(read: dict[str, Any] | None, entry: dict[str, Any]) -> str:
    """How what was read differs from the entry: `dedup.near.threshold: 0.6, not 0.9`."""
    return (
        ", ".join(differences(read, locked_decisions(entry))) if read else "other parameters or files than it records"
    )


def _run_of(root: Path, entry: dict[str, Any]) -> dict[str, Any] | None:
    """What the run cache has under the very name that it would give to this entry."""
    from dvc.stage.cache import _get_cache_hash

    plain = json.loads(json.dumps(entry))
    key, value = _get_cache_hash(copy.deepcopy(plain), key=True), _get_cache_hash(plain)
    path = cache_of(root) / "runs" / key[:2] / key / value
    return read_yaml(path) if path.exists() else None

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

from flows.lockfile import entries_of, write
from tasks.core.recorded import claim_of, differences, forget_run, is_true, locked, unseen_keys
from tasks.core.yaml import YAMLError, read_yaml
from tasks.ledger.revision import cache_of, object_of

CHECKED = Path(".scratch") / "runs.checked"  # its time is that of the last look at the run cache


def take_out(root: Path) -> list[str]:
    """Take false entries out; a line for each, none where all is as it should be."""
    said = [f"dvc.lock: {address}: {words}; it is taken out, and runs again" for address, words in _drop_locked(root)]
    runs = list(false_runs(root))
    for path in runs:
        forget_run(path)
    return said + ([f"DVC's run cache: runs that it may take for others are taken out: {len(runs)}"] if runs else [])


def false_locked(root: Path, entries: dict[str, Any]) -> dict[str, str]:
    """Of the entries of dvc.lock, those that are false or cannot be told from one that is; what is wrong, in words."""
    found = {}
    for address, entry in entries.items():
        unseen = unseen_keys(entry.get("params", {}).get("params.yaml", {}), "")
        if not is_true(entry):
            found[address] = f"its output was made with {_words(_read(root, entry), entry)}"
        elif unseen:
            run = _run_of(root, entry)
            if run and locked(run) != locked(entry):
                found[address] = f"its output was made with {_words(locked(run), entry)}"
            else:
                names = ", ".join(name.lstrip(".") for name in unseen)
                found[address] = f"its output may be of another {names}, which DVC's run cache does not see"
    return found


def false_runs(root: Path) -> Iterator[Path]:
    """The files of the run cache that came since the last look and are false, or have a parameter that it does not see."""
    last, now = root / CHECKED, time.time_ns()
    since = last.stat().st_mtime_ns if last.exists() else 0
    for path in (cache_of(root) / "runs").glob("*/*/*"):
        with suppress(FileNotFoundError, YAMLError, KeyError, TypeError, AttributeError):
            if path.stat().st_mtime_ns >= since:
                entry = read_yaml(path)
                if not is_true(entry) or unseen_keys(entry.get("params", {}).get("params.yaml", {}), ""):
                    yield path
    last.parent.mkdir(exist_ok=True)
    last.touch()
    os.utime(last, ns=(now, now))


def _drop_locked(root: Path) -> list[tuple[str, str]]:
    path = root / "dvc.lock"
    with suppress(ValueError):  # DVC may be writing it, and is waited for below
        if not path.exists() or not false_locked(root, entries_of(path.read_text())):
            return []
    from dvc.repo import Repo, lock_repo
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    with Repo(str(root), _wait_for_lock=True) as repo, lock_repo(repo):  # as DVC may write it at this moment
        text = path.read_text()
        found = false_locked(root, entries_of(text))
        whole = parse_yaml_for_update(text, path)
        for address in found:
            del whole["stages"][address]
        if whole["stages"]:
            write(path, dumps_yaml(whole))
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
    """As `dedup.near.threshold: 0.6, not 0.9`."""
    return ", ".join(differences(read, locked(entry))) if read else "other parameters or files than it records"


def _run_of(root: Path, entry: dict[str, Any]) -> dict[str, Any] | None:
    """What the run cache has under the very name that it would give to this entry."""
    from dvc.stage.cache import _get_cache_hash

    plain = json.loads(json.dumps(entry))
    key, value = _get_cache_hash(copy.deepcopy(plain), key=True), _get_cache_hash(plain)
    path = cache_of(root) / "runs" / key[:2] / key / value
    return read_yaml(path) if path.exists() else None

"""A finished pipeline run to compare with another: its data, and what was recorded of each stage that made it.

It is a project's folder as it lies there, a git revision by its dvc.lock, or an MLflow run, which leads to a revision.
"""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lm.config import ConfigError
from lm.inputs.hashed import read_ignored
from tasks.ledger.revision import data_of
from tasks.runner.git import git_output
from tasks.runner.key import locked_key
from tasks.runner.lock import entries_of, locked_in, md5s
from tasks.runner.record import TAG, Record
from tasks.runner.recorded import FOLDER
from tasks.runner.timings import record_of as recorded
from tasks.runner.tracking import tags_for_key, tags_of

RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Side:
    """root: the project. data: its folder data/, or what the cache holds of a revision's. revision: None for a folder.
    records: by stage."""

    name: str
    root: Path
    data: Path
    records: dict[str, Record]
    revision: str | None = None

    def place(self, path: str) -> Path:
        """Path of a dependency or an output of the run."""
        inside = self.data / Path(path).relative_to("data") if path.startswith("data/") else self.root / path
        return inside if inside.exists() or self.revision is None else self.root / path

    def record(self, stage: str) -> Record:
        """Record of a stage; where a lock is all there is, with what MLflow knows of the run that made the output."""
        record = self.records[stage]
        if record.libraries:
            return record
        tags = tags_for_key(record.key) or {}
        known = {name: json.loads(tags.get(TAG + name, "{}")) for name in ("libraries", "hardware")}
        return replace(record, **known)

    def code(self, stage: str, path: str) -> dict[str, str]:
        """md5 of each file of a dependency that is code."""
        if self.revision is None:
            return {f: md5 for f, md5 in self.records[stage].code.items() if f == path or f.startswith(f"{path}/")}
        ignored = read_ignored(self.root)
        listed = git_output(self.root, "ls-tree", "-r", "--name-only", "-z", self.revision, "--", path).decode()
        files = [name for name in listed.split("\0") if name and not ignored.names(name)]
        return {name: _md5(git_output(self.root, "show", f"{self.revision}:{name}")) for name in files}


def side_of(root: Path, name: str, scratch: Path) -> Side:
    """The side of this name: a folder, a git revision of the project `root`, or the id of an MLflow run. scratch: an empty
    folder for links into the cache. Raises ValueError for a name that is none of them, or of which nothing is left."""
    folder = Path(name)
    if folder.is_dir():
        return from_folder(folder)
    return from_revision(root, revision_of(root, name)[0], scratch)


def from_folder(root: Path) -> Side:
    """A project's folder whose stages have run."""
    records = {}
    for path in sorted((root / "data" / "timings").glob("*.record.json")):
        record = Record(**json.loads(path.read_text()))
        records[record.stage] = record
    lock = locked_in(root) or {}
    locked = {stage: record_of(stage, entry) for stage, entry in lock.items()}
    if not locked and not records:
        raise ValueError(f"{root}: has neither a dvc.lock nor data/timings/*.record.json: no stage has run there")
    return Side(str(root), root, root / "data", joined(root, locked) if locked else records)


def from_revision(root: Path, commit: str, scratch: Path) -> Side:
    """A revision whose dvc.lock is committed; what the cache lacks of its data is absent."""
    lock = locked_at(root, commit)
    if not lock:
        raise ValueError(f"{commit[:12]}: has no dvc.lock with stages")
    try:
        data_of(root, commit, scratch)
    except ConfigError:
        pass  # verdicts then rest on the digests in the locks
    for stage in lock:
        metrics = scratch / "data" / "metrics" / f"{stage}.json"
        metrics.parent.mkdir(parents=True, exist_ok=True)
        if shown := git_output(root, "show", f"{commit}:data/metrics/{stage}.json"):
            metrics.write_bytes(shown)
    locked = {stage: record_of(stage, entry) for stage, entry in lock.items()}
    return Side(commit[:12], root, scratch / "data", joined(root, locked), commit)


def record_of(stage: str, entry: dict[str, Any]) -> Record:
    """What a lock says of a stage; what it read is among the others, so its file of that is no output here."""
    params = entry.get("params", {}).get("params.yaml", {})
    outs = {path: md5 for path, md5 in md5s(entry, "outs").items() if not path.startswith(f"{FOLDER}/")}
    return Record(stage, locked_key(entry), entry["cmd"], md5s(entry, "deps"), params, outs=outs)


def joined(root: Path, locked: dict[str, Record]) -> dict[str, Record]:
    """The locked stages, with the record of the run that made what is locked where it ran in this folder."""
    left = {stage: recorded(root, stage, record.key) for stage, record in locked.items()}
    return {
        stage: replace(Record(**left[stage]), outs=record.outs) if left[stage] else record
        for stage, record in locked.items()
    }


def revision_of(root: Path, name: str) -> tuple[str, str | None]:
    """(commit, stage) of a git revision, whose stage is None, or of an MLflow run: the newest commit whose dvc.lock has the
    run's stage key, and its stage. Raises ValueError when there is none."""
    commit = git_output(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").decode().strip()
    if commit:
        return commit, None
    tags = tags_of(name) if RUN_ID.fullmatch(name) else None
    if tags is None:
        raise ValueError(f"{name}: neither a folder, nor a git revision here, nor the id of a run that MLflow knows")
    ran_at, stage = tags.get("git.revision", ""), tags.get("dvc.stage")
    if stage is None:
        return ran_at, None
    commits = git_output(root, "rev-list", "--all", "--", "dvc.lock").decode().split()
    for commit in dict.fromkeys([ran_at, *commits]):
        entry = locked_at(root, commit).get(stage)
        if entry and locked_key(entry) == tags.get("stage.key"):
            return commit, stage
    raise ValueError(f"{name}: no commit here has a dvc.lock with this run of {stage}: it ran at {ran_at[:12]}")


def locked_at(root: Path, commit: str) -> dict[str, Any]:
    """The stages of a revision's dvc.lock; none where it has none, or no YAML."""
    try:
        return entries_of(git_output(root, "show", f"{commit}:dvc.lock").decode())
    except ValueError:
        return {}


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()

"""What differs between what dvc.lock records of a stage and what is there now, each difference in a few words."""

import ast
import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from dvc.stage import Stage
from dvc_data.hashfile.build import build
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.obj import HashFile
from dvc_data.hashfile.tree import Tree

from lm.inputs.hashed import read_ignored
from tasks.core.yaml import dump_yaml
from tasks.runner.git import git_output
from tasks.runner.graph import value_at
from tasks.runner.key import listing_md5

REVISIONS = 30  # of a path's history that are searched for what the lock records
ABSENT = object()


@dataclass(frozen=True)
class Change:
    """One difference. words: what the plan says of it. path: of the file that changed; dependency: what dvc.yaml names of it,
    the file or a folder that holds it; md5: what the lock records of that."""

    words: str
    path: str = ""
    dependency: str = ""
    md5: str = ""


@dataclass(frozen=True)
class Committed:
    """A path as a commit has it: the revision, and the blob of each file by its name below the path."""

    revision: str
    blobs: dict[str, str]
    md5s: dict[str, str]


def leaves(value: Any, name: str) -> dict[str, Any]:
    """The values of a section by their dotted keys; an empty mapping or list is a value."""
    pieces = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {k: v for key, part in pieces for k, v in leaves(part, f"{name}.{key}").items()} or {name: value}


def param_changes(name: str, old: Any, new: Any) -> list[str]:
    """`rl.steps: 40 -> 50` for each key of a section that differs."""
    before = {} if old is ABSENT else leaves(old, name)
    after = {} if new is ABSENT else leaves(new, name)
    return [
        f"{key}: {said(before.get(key, ABSENT))} -> {said(after.get(key, ABSENT))}"
        for key in {**before, **after}
        if before.get(key, ABSENT) != after.get(key, ABSENT)
    ]


def said(value: Any) -> str:
    """A value as one would write it in params.yaml."""
    return "not there" if value is ABSENT else " ".join(dump_yaml(value).removesuffix("...\n").split())


def file_changes(path: str, old: dict[str, str], new: dict[str, str]) -> list[str]:
    """`tasks/runner/key.py changed` for each file of a folder that differs between two listings of md5 by name."""
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return [
        f"{path}/{name} {'added' if name not in old else 'removed' if name not in new else 'changed'}" for name in names
    ]


def changes_of(repo: Repo, stage: Stage, status: list[Any], locked: dict[str, Any] | None) -> list[Change]:
    """All differences of a stage that DVC says is stale, at least one. status: what `dvc status` says of it; locked: its entry
    of dvc.lock."""
    if locked is None:
        return [Change("it has not run: dvc.lock has no entry of it")]
    found: list[Change] = []
    told: dict[str, dict[str, Any]] = {"changed deps": {}, "changed outs": {}}
    for part in status:
        if isinstance(part, dict):
            for kind, changes in part.items():
                told[kind].update(changes)
        elif part == "changed command":
            found.append(Change(f"its command: {locked.get('cmd')} -> {stage.cmd}"))
        else:
            found.append(Change(part))
    for dep in sorted(stage.deps, key=lambda dep: (not isinstance(dep, ParamsDependency), dep.def_path)):
        if str(dep) in told["changed deps"]:
            change = told["changed deps"][str(dep)]
            params = locked.get("params", {}).get(dep.def_path, {})
            found += _params(dep, change, params) if isinstance(change, dict) else _dependency(repo, dep, change)
    for out in stage.outs:
        if str(out) in told["changed outs"]:
            found += _output(repo, out, told["changed outs"][str(out)])
    return list(dict.fromkeys(found)) or [Change("DVC says that it changed")]


def _params(dep: Any, status: dict[str, str], locked: dict[str, Any]) -> list[Change]:
    now = dep.read_params(flatten=False)
    changes = []
    for name in status:
        try:
            new = value_at(name, now)
        except KeyError:
            new = ABSENT
        changes += [Change(words) for words in param_changes(name, locked.get(name, ABSENT), new)]
    return changes


def _dependency(repo: Repo, dep: Any, status: str) -> list[Change]:
    path, md5 = dep.def_path, dep.hash_info.value
    if status == "deleted":
        return [Change(f"{path} is not there")]
    if not md5:
        return [Change(f"{path} is a new dependency")]
    before = listing_then(repo, path, md5) if md5.endswith(".dir") else None
    if before is None:
        return [Change(f"{path} changed", path, path, md5)]
    found = file_changes(path, before, listing_now(repo, dep))
    return [Change(words, words.rpartition(" ")[0], path, md5) for words in found]


def _output(repo: Repo, out: Any, status: str) -> list[Change]:
    path, md5 = out.def_path, out.hash_info.value or ""
    if status == "modified":
        before = listing_then(repo, path, md5) if md5.endswith(".dir") else None
        names = file_changes(path, before, listing_now(repo, out)) if before is not None else []
        return [Change(f"its output was edited: {words}") for words in names or [path]]
    return [Change(f"its output {path} is {'not there' if status == 'deleted' else status}")]


def listing_now(repo: Repo, item: Any) -> dict[str, str]:
    """md5 of each file of a folder as it is, most of them out of DVC's memory of files that have not changed since."""
    _, _, tree = build(repo.cache.local, item.fs_path, item.fs, "md5", ignore=repo.dvcignore, dry_run=True)
    return _names(tree)


def listing_then(repo: Repo, path: str, md5: str) -> dict[str, str] | None:
    """md5 of each file of the folder that had this md5: by DVC's cache, else by git; None when neither has it."""
    try:
        return _names(Tree.load(repo.cache.local, HashInfo("md5", md5)))
    except FileNotFoundError:
        found = committed(Path(repo.root_dir), path, md5)
        return found.md5s if found else None


def _names(tree: HashFile) -> dict[str, str]:
    return {entry["relpath"]: entry["md5"] for entry in tree.as_list()} if isinstance(tree, Tree) else {}


@cache
def committed(root: Path, path: str, md5: str) -> Committed | None:
    """The newest commit, of the last that changed the path, in which it had this md5; None when there is none."""
    ignored = read_ignored(root)
    for revision in git_output(root, "log", f"--max-count={REVISIONS}", "--format=%H", "--", path).decode().split():
        listed = os.fsdecode(git_output(root, "ls-tree", "-r", "-z", "--full-tree", revision, "--", path))
        blobs = {line.partition("\t")[2]: line.split()[2] for line in filter(None, listed.split("\0"))}
        names = {name: blob for name, blob in blobs.items() if name == path or not ignored.names(name)}
        relative = {name.removeprefix(f"{path}/"): blob for name, blob in names.items()}
        md5s = {name: blob_md5(root, blob) for name, blob in relative.items()}
        if md5 == (md5s.get(path) if path in md5s else listing_md5(md5s)):
            return Committed(revision, relative, md5s)
    return None


@cache
def blob_md5(root: Path, blob: str) -> str:
    """md5 of the bytes of a file that git has."""
    return hashlib.md5(blob_bytes(root, blob), usedforsecurity=False).hexdigest()


def blob_bytes(root: Path, blob: str) -> bytes:
    """Bytes of a blob that git has, none where it has none."""
    return git_output(root, "cat-file", "blob", blob)


def only_words(before: str, after: str) -> bool:
    """Whether two texts of Python differ in comments, docstrings and layout alone."""
    try:
        return _without_words(before) == _without_words(after)
    except SyntaxError:
        return False


def _without_words(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:]
    return ast.dump(tree)

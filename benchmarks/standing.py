"""Whether a row of the results still stands: its commit is clean and there, and the code it timed has not changed since."""

import ast
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from flows.staleness.changes import only_words
from tasks.runner.git import run_git
from tests.imports import closure, file_of, is_room
from tests.project import ROOT

# Arms name what they call in a process of their own as "module:function".
NAMED = re.compile(r'"(benchmarks\.\w+):')
# A file whose work is done by processes that it starts names their modules in a tuple of this name.
RUNS = "RUNS"


@cache
def timed_code(bench: str, root: Path = ROOT) -> tuple[str, ...]:
    """The files, relative to the root, that a benchmark runs: what it, its arms and the modules of its RUNS import, of a room
    the methods they name. Empty where there is no such benchmark any more."""
    waiting = [root / "benchmarks" / f"{bench}.py"]
    if not waiting[0].is_file():
        return ()
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        new = closure(path, root) - found
        found |= new
        for file in new:
            text = file.read_text()
            arms = [file_of(module, root) for module in NAMED.findall(text)]
            others = [*arms, *modules_run(file, root), *methods_named(file, root)]
            waiting += [each for each in others if each]
    return tuple(sorted(path.relative_to(root).as_posix() for path in found))


def modules_run(path: Path, root: Path) -> list[Path]:
    """The files of the modules that a file of benchmarks/ runs in processes of their own, by its RUNS. Raises ValueError for
    one that is not there."""
    if path.parent != root / "benchmarks":
        return []
    found = []
    for line in ast.parse(path.read_text()).body:
        if isinstance(line, ast.Assign) and [ast.unparse(target) for target in line.targets] == [RUNS]:
            for module in ast.literal_eval(line.value):
                file = file_of(module, root)
                if file is None:
                    raise ValueError(f"{path.relative_to(root)}: {RUNS}: no module {module}")
                found.append(file)
    return found


@cache
def methods_named(path: Path, root: Path) -> list[Path]:
    """The files of the methods that a file imports out of rooms, by the line of the room's __init__ that names each."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        room = file_of(node.module, root)
        if room is None or not is_room(room):
            continue
        wanted = {alias.name for alias in node.names}
        for line in ast.parse(room.read_text()).body:
            if isinstance(line, ast.ImportFrom) and line.module and wanted & {alias.name for alias in line.names}:
                file = file_of(line.module, root)
                found += [file] if file else []
    return found


@cache
def commit_doubt(commit: str, bench: str, root: Path = ROOT) -> str:
    """Why a row of this commit may no longer be true of the code that is here; "" where nothing speaks against it."""
    revision, _, dirty = commit.partition("-")
    if dirty:
        return "dirty tree"
    if run_git(root, "cat-file", "-e", f"{revision}^{{commit}}").returncode:
        return "no such commit"
    files = timed_code(bench, root)
    if not files:
        return "no such benchmark"
    before = names_then(revision, root)
    changed = [name for name in files if name in before and not does_the_same(revision, before[name], name, root)]
    return f"{len(changed)} of its files changed since" if changed else ""


@cache
def names_then(revision: str, root: Path = ROOT) -> dict[str, str]:
    """The name at a revision of each file that differs from then, by its name now: another where it was moved, "" where it was
    not there."""
    lines = run_git(root, "diff", "--find-renames", "--name-status", revision, "--", "*.py").stdout.splitlines()
    parts = [line.split("\t") for line in lines]
    return {names[-1]: "" if kind[0] == "A" else names[0] for kind, *names in parts if kind[0] != "D"}


def does_the_same(revision: str, then: str, now: str, root: Path) -> bool:
    """Whether two files, of then and of now, differ in words, layout and the names of modules that were moved alone."""
    if not then:
        return False
    moved = {module_of(old): module_of(new) for new, old in names_then(revision, root).items() if old and old != new}
    before = run_git(root, "show", f"{revision}:{then}").stdout
    return only_words(with_names(before, moved), with_names((root / now).read_text(), {}))


def module_of(name: str) -> str:
    """The module that a file of this name is."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def with_names(text: str, moved: dict[str, str]) -> str:
    """Python's text in which every import is of one name and calls a moved module by its new one, all at the end of what they
    stand in."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            each = [line for statement in body for line in one_by_one(statement, moved)]
            imports = [line for line in each if isinstance(line, ast.Import | ast.ImportFrom)]
            node.body = [line for line in each if line not in imports] + sorted(imports, key=ast.dump)  # type: ignore[attr-defined]
    return ast.unparse(tree)


def one_by_one(statement: ast.stmt, moved: dict[str, str]) -> list[ast.stmt]:
    """The statement; of an import from a module one for each of its names."""
    if not isinstance(statement, ast.ImportFrom):
        return [statement]
    found: list[ast.stmt] = []
    for alias in statement.names:
        whole = f"{statement.module}.{alias.name}"
        module, _, name = (
            moved[whole].rpartition(".")
            if whole in moved
            else (moved.get(str(statement.module), statement.module), "", alias.name)
        )
        called = alias.asname or alias.name
        found.append(ast.ImportFrom(module, [ast.alias(name, called)], 0))
    return found


def doubts(rows: Iterable[dict[str, Any]], root: Path = ROOT) -> list[str]:
    """What speaks against each row, "" where nothing does: its commit, or another machine than most of the rows have."""
    rows = list(rows)
    machines = Counter(row["machine"] for row in rows)
    usual = machines.most_common(1)[0][0] if machines else ""
    found = []
    for row in rows:
        said = [commit_doubt(row["commit"], row["bench"], root), "" if row["machine"] == usual else "other machine"]
        found.append(", ".join(filter(None, said)))
    return found

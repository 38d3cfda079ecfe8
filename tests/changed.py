"""Which test files can fail by what has changed: `make test CHANGED=1`, which is `pytest --changed`.

Changed are the files that differ from where this branch left main, and on main from its newest commit; new ones are among them.
A Python file reaches the tests that import it, at however many hands, or name it in a text, as a patch does. A test that starts
processes or reads the project's files by their path may meet any code, so any change reaches it. What is no Python (params,
dvc.yaml, pins, data) reaches every test, and a document those that read the project's files.
"""

import ast
import re
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.imports import ROOT, file_of, imports_of

MEETS_ANY = re.compile(r"\bROOT\b|\bsys\.executable\b|\b(run_stage|start_stage|started|run_forked|make_project)\b")
# They hold these words for others.
FOR_OTHERS = tuple(
    ROOT / "tests" / name for name in ("project.py", "forks", "changed.py", "imports.py", "real_text.py")
)
MODULE = re.compile(r"(benchmarks|flows|kernels|lm|tasks|tests)(\.\w+)+")
DOCUMENTS = (".md", ".cff")


def changed_files(root: Path = ROOT) -> list[Path]:
    """The files that differ from the commit where this branch left main, or were deleted since, and those that git does not
    know yet; relative to the root."""
    base = next((found for name in ("main", "origin/main") if (found := git(root, "merge-base", "HEAD", name))), "HEAD")
    names = git(root, "diff", "--name-only", "--no-renames", base).splitlines()
    names += git(root, "ls-files", "--others", "--exclude-standard").splitlines()
    return sorted({Path(name) for name in names})


def git(root: Path, *arguments: str) -> str:
    """What git prints; "" where it fails."""
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False).stdout.strip()


def affects_test(changes: Iterable[Path], test: Path, root: Path = ROOT) -> bool:
    """Whether these changes can make a test file fail; all paths are relative to the root."""
    changes = list(changes)
    if any(path.suffix not in (".py", *DOCUMENTS) or path.name == "conftest.py" for path in changes):
        return True
    return bool(changes) and (meets_any(root / test, root) or not files_reached(root / test, root).isdisjoint(changes))


def meets_any(test: Path, root: Path) -> bool:
    """Whether a test file, in tests/ or beside a kernel, or what it imports of the tests, starts processes or reads the files of
    the project by their path."""
    files = [root / path for path in files_reached(test, root) if of_tests(path) and (root / path).is_file()]
    return any(MEETS_ANY.search(p.read_text()) for p in files if not any(p.is_relative_to(o) for o in FOR_OTHERS))


def of_tests(path: Path) -> bool:
    """Whether a file is one of the tests', which stand in tests/ and beside the kernels."""
    return "tests" in path.parts or path.name.startswith("test_")


@cache
def files_reached(test: Path, root: Path) -> set[Path]:
    """The files of ours that a test file imports, at however many hands, and that they name in texts; itself among them."""
    found, waiting = set[Path](), [test]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for module in [*imports_of(path), *modules_named_in(path)]:
            parts = module.split(".")
            waiting += filter(None, (file_of(".".join(parts[:n]), root) for n in range(1, len(parts) + 1)))
    return {path.relative_to(root) for path in found}


@cache
def modules_named_in(path: Path) -> list[str]:
    """The modules of ours whose names stand in a file of tests as texts."""
    if not of_tests(path):
        return []
    texts = [n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]
    return [found[0] for text in texts if isinstance(text, str) for found in MODULE.finditer(text)]


class Changed:
    """A plugin of pytest that collects the test files which these changes reach, and takes none for a success."""

    def __init__(self, changes: list[Path], root: Path) -> None:
        self._changes, self._root = changes, root

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
        return True if is_test and not affects_test(self._changes, collection_path.relative_to(self._root)) else None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """xdist: every worker has the changes that the process which started it has seen."""
        node.workerinput["changes"] = [str(path) for path in self._changes]

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--changed", action="store_true", help="the test files that the changes since main can make fail")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("changed"):
        given = getattr(config, "workerinput", None)
        changes = [Path(name) for name in given["changes"]] if given else changed_files()
        config.pluginmanager.register(Changed(changes, config.rootpath), "what a change can reach")

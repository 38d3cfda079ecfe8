"""`make test CHANGED=1`: what a change can reach, in a small repository with the project's shape, and none besides."""

import subprocess
from pathlib import Path

import pytest

from tests.changed import affects_test, changed_files

FILES = {
    "lm/__init__.py": "",
    "lm/norms.py": "from kernels.add import add\nEPS = 1\n",
    "kernels/__init__.py": "",
    "kernels/add/__init__.py": "def add(x):\n    from kernels.add import cpu\n",
    "kernels/add/cpu.py": "",
    "kernels/add/test_add.py": "from kernels.add import add\n",
    "kernels/sub/__init__.py": "",
    "kernels/sub/test_sub.py": "from kernels.sub import reference\n",
    "kernels/sub/reference.py": "",
    "kernels/test_interpreted.py": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import torch'])\n",
    "lm/model.py": "from lm.norms import EPS\n",
    "tasks/__init__.py": "",
    "tasks/lazy.py": "def work():\n    from lm import model\n",
    "tests/__init__.py": "",
    "tests/made.py": "from lm import norms\n",
    "tests/test_model.py": "from lm.model import EPS\n",
    "tests/test_made.py": "from tests.made import norms\n",
    "tests/test_lazy.py": "from tasks.lazy import work\n",
    "tests/test_patches.py": "def test(monkeypatch):\n    monkeypatch.setattr('lm.norms.EPS', 2)\n",
    "tests/test_starts.py": "import sys\ncommand = [sys.executable]\n",
    "tests/test_alone.py": "import json\n",
}
TESTS = sorted(name for name in FILES if "/test_" in name)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q", "-b", "main")
    commit(tmp_path)
    return tmp_path


def git(repo: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=repo, check=True)


def commit(repo: Path) -> None:
    git(repo, "add", "-A")
    git(repo, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "all")


def reached_by(repo: Path, *changes: str) -> list[str]:
    """The words that tell apart the test files which these changes reach."""
    found = [name for name in TESTS if affects_test(map(Path, changes), Path(name), repo)]
    return [Path(name).stem.removeprefix("test_") for name in found]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("lm/norms.py", "interpreted lazy made model patches starts"),
        ("lm/model.py", "interpreted lazy model starts"),
        ("tasks/lazy.py", "interpreted lazy starts"),
        ("kernels/add/cpu.py", "add interpreted lazy made model patches starts"),
        ("kernels/sub/reference.py", "sub interpreted starts"),
        ("kernels/sub/test_sub.py", "sub interpreted starts"),
        ("tests/made.py", "interpreted made starts"),
        ("tests/test_alone.py", "interpreted alone starts"),
        ("README.md", "interpreted starts"),
        ("kernels/add/tuned.json", "add sub interpreted alone lazy made model patches starts"),
        ("dvc.yaml", "add sub interpreted alone lazy made model patches starts"),
        ("tests/conftest.py", "add sub interpreted alone lazy made model patches starts"),
    ],
)
def test_a_change_reaches_those_that_import_it_at_any_hand(repo: Path, change: str, expected: str) -> None:
    assert reached_by(repo, change) == expected.split()


def test_nothing_reaches_nothing(repo: Path) -> None:
    assert changed_files(repo) == [] and reached_by(repo) == []


def test_edited_new_moved_and_committed_on_a_branch_is_changed(repo: Path) -> None:
    git(repo, "checkout", "-q", "-b", "mine")
    (repo / "lm" / "norms.py").write_text("EPS = 2\n")
    commit(repo)
    git(repo, "mv", "tests/made.py", "tests/done.py")
    (repo / "tasks" / "lazy.py").write_text("\n")
    (repo / "tasks" / "new.py").write_text("\n")
    assert [str(path) for path in changed_files(repo)] == ["lm/norms.py", "tasks/lazy.py", "tasks/new.py", "tests/done.py", "tests/made.py"]  # fmt: skip

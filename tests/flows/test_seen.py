"""What was found up to date is not asked about again, and whatever changes is: as DVC itself says, and at once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from dvc.stage import Stage

from flows.environment import environment
from flows.staleness import signatures as seen
from flows.staleness.plan import make_plan
from tests import repositories

GRAPH = {
    "first": {"cmd": "cp -rL raw data", "deps": ["raw"], "params": ["first"], "outs": ["data"]},
    "second": {"cmd": "ls data > end", "deps": ["data"], "outs": ["end"]},
}


def dvc(root: Path, *arguments: str) -> None:
    repositories.dvc(root, *arguments, "--quiet", surroundings=environment(root))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that has run, one file of its input a link."""
    root = tmp_path_factory.mktemp("ran")
    (root / "raw" / "below").mkdir(parents=True)
    (root / "raw" / "below" / "a").write_text("one\n")
    for name in ("b", "elsewhere"):
        (root / name).write_text(f"{name}\n")
    (root / "raw" / "link").symlink_to(Path("..", "b"))
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": GRAPH}))
    (root / "params.yaml").write_text("first: {value: 1}\n")
    dvc(root, "init", "--no-scm")
    dvc(root, "add", "elsewhere")
    dvc(root, "repro")
    return root


@pytest.fixture
def root(ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the graph, of which the plan has been asked until it knows that all is up to date."""
    root = Path(shutil.copytree(ran, tmp_path / "root", symlinks=True))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(root / ".scratch" / "dvc"))
    monkeypatch.chdir(root)
    for _ in range(100):  # files of this moment are not remembered
        if not stale(root) and len(seen.recall(root)) == 3:
            return root
    raise AssertionError(seen.recall(root))


def stale(root: Path) -> set[str]:
    return {stage.address for stage in make_plan(root, []) if stage.reason}


def test_what_is_known_is_not_asked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    status = Stage.status
    monkeypatch.setattr(Stage, "status", lambda self, **how: asked.append(self.addressing) or status(self, **how))
    assert not stale(root) and asked == []
    (root / "end").unlink()
    assert stale(root) == {"second"} and asked == ["second"]


def other_target(root: Path) -> None:
    (root / "raw" / "link").unlink()
    (root / "raw" / "link").symlink_to(root / "elsewhere")


def lock(root: Path) -> None:
    found = yaml.safe_load((root / "dvc.lock").read_text())
    found["stages"]["first"]["deps"][0]["md5"] = "0" * 32 + ".dir"
    (root / "dvc.lock").write_text(yaml.safe_dump(found))


def command(root: Path) -> None:
    (root / "dvc.yaml").write_text((root / "dvc.yaml").read_text().replace("cp -rL", "cp -r -L"))


CHANGES: dict[str, Callable[[Path], object]] = {
    "bytes": lambda root: (root / "raw" / "below" / "a").write_text("two\n"),
    "behind a link": lambda root: (root / "b").write_text("c\n"),
    "a link": other_target,
    "a new file": lambda root: (root / "raw" / "below" / "c").touch(),
    "a file gone": lambda root: (root / "raw" / "below" / "a").unlink(),
    "a file moved": lambda root: (root / "raw" / "below" / "a").rename(root / "raw" / "a"),
    "a parameter": lambda root: (root / "params.yaml").write_text("first: {value: 2}\n"),
    "a command": command,
    "the lock": lock,
    "no lock": lambda root: (root / "dvc.lock").unlink(),
    "an output": lambda root: (root / "end").write_text("edited"),
    "what was added": lambda root: (root / "elsewhere").write_text("edited"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_as_dvc_sees_it(root: Path, change: str) -> None:
    CHANGES[change](root)
    with Repo(str(root)) as repo:
        said = set(repo.status())
    assert stale(root) == said and said
    assert stale(root) == said, "asked a second time"


@pytest.mark.parametrize("text", ["", "[]", '{"first": 1', "\0"])
def test_a_torn_memory_is_none(root: Path, text: str) -> None:
    (root / seen.FILE).write_text(text)
    assert not stale(root) and set(json.loads((root / seen.FILE).read_text())) == {"first", "second", "elsewhere.dvc"}


def test_links_that_lead_back_are_not_followed(tmp_path: Path) -> None:
    """Two of them in a folder would be walked 2**40 times."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a").write_text("a")
    for name in ("one", "two"):
        (tmp_path / "text" / name).symlink_to(tmp_path / "text")
    assert [Path(path).name for path, _ in seen._below(str(tmp_path / "text"))] == ["a", "one", "two"]

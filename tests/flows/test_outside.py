"""What parameters name beside a checkout, as its variants reach it: by the same name, and never something else of that name."""

from pathlib import Path

import pytest
import yaml
from dvc.config import Config

from flows.params.outside import reach_inputs
from flows.workspaces.variants import create_variant, list_variants, variant_path
from lm.inputs.hashed import read_ignored
from tasks.core.config import ConfigError
from tasks.runner.git import git
from tasks.runner.key import path_md5


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A checkout beside a folder of text, with another folder of its own that git does not hold, and two variants."""
    home = tmp_path / "checkout"
    home.mkdir()
    (home / ".dvcignore").write_text(".variants/\n")
    for variant in ("a", "b"):
        folder = home / ".variants" / variant
        folder.mkdir(parents=True)
        stages = {"one": {"cmd": "x", "deps": ["${one.folder}", "data/given"], "params": ["one"], "outs": ["data/one"]}}
        (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        (folder / "params.yaml").write_text("one: {folder: x}\n")
    for folder in (tmp_path / "my-text", home / "corpus"):
        folder.mkdir()
        (folder / "a.txt").write_text("text\n")
    return home


def reach(home: Path, folder: str, variant: str = "a") -> Path:
    root = home / ".variants" / variant
    reach_inputs(root, {"one": {"folder": folder}})
    return root / folder


@pytest.mark.parametrize("folder", ["../my-text", "corpus"])
def test_variants_read_what_the_checkout_would(home: Path, folder: str) -> None:
    digest = path_md5(home / folder, read_ignored(home))
    for variant in ("a", "b", "a"):
        there = reach(home, folder, variant)
        assert (there / "a.txt").read_text() == "text\n"
        assert path_md5(there, read_ignored(home / ".variants" / variant)) == digest
    assert [path.name for path in list_variants(home)] == ["a", "b"]


def test_a_link_follows_what_was_moved_and_an_input_that_is_not_there_is_left_to_those_who_look_for_it(
    home: Path,
) -> None:
    reach(home, "../my-text")
    (home.parent / "my-text").rename(home.parent / "elsewhere")
    assert not reach(home, "../my-text").exists()
    (home.parent / "my-text").mkdir()
    (home.parent / "my-text" / "b.txt").write_text("other\n")
    assert (reach(home, "../my-text") / "b.txt").read_text() == "other\n"


def test_what_would_be_another_folder_is_refused(home: Path) -> None:
    (home.parent / "b").mkdir()
    with pytest.raises(ConfigError, match=r"^\.\./b: has the name of a variant, .*name it by .*/b$"):
        reach(home, "../b")
    with pytest.raises(ConfigError, match=r"^\.\./\.\./far: lies more than one folder up"):
        reach(home, "../../far")
    reach(home, "../my-text")
    with pytest.raises(ConfigError, match="'my-text' leads variants to an input"):
        variant_path(home, "my-text")


def test_a_checkout_itself_has_nothing_to_reach(tmp_path: Path) -> None:
    reach_inputs(tmp_path, {"one": {"folder": "../my-text"}})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def grown(tmp_path: Path) -> Path:
    """A checkout beside a folder of text, of two commits: the second has a file more in each folder that its stage reads."""
    home = tmp_path / "checkout"
    stages = {"one": {"cmd": "x", "deps": ["${one.folder}", "corpus", "lm", "data/given"], "outs": ["data/one"]}}
    for path, text in {
        "checkout/dvc.yaml": yaml.safe_dump({"stages": stages}),
        "checkout/params.yaml": "one: {folder: ../my-text}\n",
        "checkout/.gitignore": ".variants/\n/corpus/mine.txt\n",
        "checkout/.dvc/config": "",
        "checkout/corpus/old.txt": "old",
        "checkout/lm/old.py": "old",
        "my-text/a.txt": "text",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    git(home, "init", "--quiet")
    for number in range(2):
        git(home, "add", ".")
        git(home, "-c", "user.name=n", "-c", "user.email=e", "commit", "--quiet", "--message", str(number))
        for path in ("corpus/new.txt", "lm/new.py"):
            (home / path).write_text("new")
    for path in ("corpus/mine.txt", "lm/__pycache__/old.pyc", "data/given/deep/a.txt", "data/one/a.txt"):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text("not of git")
    return home


def files(folder: Path, *below: str) -> set[str]:
    return {str(path.relative_to(folder)) for part in below for path in (folder / part).rglob("*") if path.is_file()}


def test_a_variant_of_an_old_revision_has_the_inputs_that_git_does_not_hold_and_no_newer_file_of_git(
    grown: Path,
) -> None:
    """Whether it is made, or its own code asks for them once more."""
    folder = create_variant(grown, "old", "HEAD~1")
    there = {"corpus/old.txt", "corpus/mine.txt", "lm/old.py", "data/given/deep/a.txt"}
    assert files(folder, "corpus", "lm", "data") == there
    assert (folder / ".." / "my-text" / "a.txt").read_text() == "text"
    reach_inputs(folder, {"one": {"folder": "../my-text"}})
    assert files(folder, "corpus", "lm", "data") == there
    new = create_variant(grown, "new", "HEAD")
    assert files(new, "corpus", "lm", "data") == {*there, "corpus/new.txt", "lm/new.py"}


def test_parameters_of_which_a_variant_cannot_have_the_inputs_keep_none_from_being_made(grown: Path) -> None:
    """It may run with others; with these it is told."""
    (grown / "params.yaml").write_text("one: {folder: ../../far}\n")
    folder = create_variant(grown, "other", "HEAD")
    reach_inputs(folder, {"one": {"folder": "../my-text"}})
    with pytest.raises(ConfigError, match=r"^\.\./\.\./far: lies more than one folder up"):
        reach_inputs(folder, {"one": {"folder": "../../far"}})


def test_a_variant_has_the_remotes_and_the_cache_of_its_checkout(grown: Path) -> None:
    """A remote that .dvc/config names by a relative path, its own settings of config.local, and how the cache links; and by
    relative paths, which a project that is moved keeps."""
    (grown / ".dvc" / "config").write_text("[core]\n    remote = store\n['remote \"store\"']\n    url = ../../store\n")
    (grown / ".dvc" / "config.local").write_text(
        "['remote \"store\"']\n    verify = true\n[cache]\n    type = hardlink\n"
    )
    here, there = (Config(str(folder / ".dvc")).read() for folder in (grown, create_variant(grown, "one", "HEAD")))
    assert there["remote"] == here["remote"] and there["core"].get("remote") == "store"
    assert there["remote"]["store"]["url"] == str(grown.parent / "store")
    assert there["cache"] == {**here["cache"], "dir": str(grown / ".dvc" / "cache")}
    written = grown / ".variants" / "one" / ".dvc" / "config.local"
    assert str(grown) not in written.read_text() and written.stat().st_mode & 0o077 == 0

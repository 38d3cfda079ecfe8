"""What dvc.lock does not vouch for is shown as absent."""

import subprocess
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml

from lm.inputs.hashed import read_ignored
from tasks.report.read import read_facts, read_stages
from tasks.runner.graph import read_graph
from tasks.runner.key import path_md5
from tests.report.tree import build

METHOD = "tasks/dedup/methods/minhash.py"


def lock(root: Path) -> dict:
    """A lock that agrees with the tree, and the code that it speaks of."""
    for path in (METHOD, "tasks/core/log.py"):
        (root / path).parent.mkdir(parents=True)
        (root / path).write_text("pass\n")
    made = {dep: path_md5(root / dep, read_ignored(root)) for dep in (METHOD, "tasks/core")}
    params = {"ingest": {"ingest": {"folder": "data/raw"}}, "dedup": {"dedup.method.name": "minhash"}}
    return {
        address: {
            "cmd": entry.cmd,
            "deps": [{"path": path, "md5": made.get(path, f"md5 of {path}")} for path in entry.deps],
            "params": {"params.yaml": params.get(address, {})},
            "outs": [{"path": path, "md5": f"md5 of {path}"} for path in entry.outs],
        }
        for address, entry in read_graph(root).items()
    }


def current(root: Path, stages: dict) -> list[str]:
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    return [s.name for s in read_stages(root) if s.current]


def test_a_lock_that_agrees_vouches_for_all(tmp_path: Path) -> None:
    root = build(tmp_path)
    assert current(root, lock(root)) == ["ingest", "dedup", "pretrain", "rl", "evaluate@pretrain", "evaluate@rl"]


@pytest.mark.parametrize("linked", [False, True])
def test_where_the_process_stands_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool) -> None:
    """Runs of a study read their checkouts in threads of one process, of which one's folder would be everyone's."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    build(root)
    stages = lock(root)
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    if linked:
        (tmp_path / "link").symlink_to(root)
        root = tmp_path / "link"
    with monkeypatch.context() as patch:
        patch.setattr("os.chdir", lambda folder: pytest.fail(f"went to {folder}"))
        assert current(root, stages) == ["ingest", "dedup", "pretrain", "rl", "evaluate@pretrain", "evaluate@rl"]


@pytest.mark.parametrize(
    "change", ["params", "method", "folder", "command", "data", "new dependency", "new param", "no param"]
)
def test_a_change_blanks_the_stage_and_what_follows(tmp_path: Path, change: str) -> None:
    root = build(tmp_path)
    stages = lock(root)
    if change == "params":
        (root / "params.yaml").write_text((root / "params.yaml").read_text() + "unread: 1\n")
        stages["dedup"]["params"]["params.yaml"]["dedup.method.name"] = "exact"
    elif change == "method":
        (root / METHOD).write_text("other\n")
    elif change == "folder":
        (root / "tasks/core/new.py").write_text("")
    elif change == "command":
        stages["dedup"]["cmd"] = "false"
    elif change == "data":
        stages["ingest"]["outs"][0]["md5"] = "0"
    elif change == "new dependency":
        stages["dedup"]["deps"].pop(0)
    elif change == "new param":
        del stages["dedup"]["params"]
    else:
        text = (root / "dvc.yaml").read_text()
        (root / "dvc.yaml").write_text(text.replace("[dedup.method.name]", "[dedup.method.name, dedup.gone]"))
    assert current(root, stages) == ["ingest"]


def test_a_param_that_is_no_longer_declared_is_no_matter(tmp_path: Path) -> None:
    """DVC runs the stage no more, and would never write an entry that agrees."""
    root = build(tmp_path)
    stages = lock(root)
    (root / "dvc.yaml").write_text((root / "dvc.yaml").read_text().replace("params: [dedup.method.name]", "params: []"))
    stages["dedup"]["params"]["params.yaml"]["dedup.method.name"] = "exact"
    assert "dedup" in current(root, stages)


def test_a_change_late_leaves_the_earlier_stages(tmp_path: Path) -> None:
    root = build(tmp_path)
    stages = lock(root)
    del stages["rl"]
    assert current(root, stages) == ["ingest", "dedup", "pretrain", "evaluate@pretrain"]
    assert next(s for s in read_stages(root) if s.name == "rl").metrics == {}


def test_what_a_run_writes_does_not_make_the_revision_dirty(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *arguments], cwd=tmp_path, check=True)

    (tmp_path / "params.yaml").write_text("b: 1\na: 2\n")
    assert read_facts(tmp_path).revision is None
    git("init", "-q")
    git("add", "params.yaml")
    git("commit", "-q", "-m", "first")
    first = read_facts(tmp_path)
    (tmp_path / "data" / "metrics").mkdir(parents=True)
    for made in ("dvc.lock", "data/metrics/dedup.json"):
        (tmp_path / made).write_text("{}")
    assert read_facts(tmp_path) == first
    assert not first.dirty
    (tmp_path / "params.yaml").write_text("a: 2\nb: 1\n")
    second = read_facts(tmp_path)
    assert second.dirty
    assert second.digest == first.digest
    (tmp_path / "params.yaml").write_text("a: 2\nb: 2\n")
    assert read_facts(tmp_path).digest != first.digest


@pytest.mark.parametrize("folder", ["../corpus", "{tmp}/corpus"])
def test_a_corpus_outside_the_checkout_is_not_read_again(tmp_path: Path, folder: str) -> None:
    """It may be of any size, and this is asked several times a run."""
    (tmp_path / "root").mkdir()
    root, corpus = build(tmp_path / "root"), tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text("text")
    path = folder.format(tmp=tmp_path)
    (root / "dvc.yaml").write_text((root / "dvc.yaml").read_text().replace("data/raw", path))
    stages = lock(root)
    with patch("tasks.report.read.path_md5", side_effect=path_md5) as asked:
        assert "ingest" in current(root, stages)
    assert not [call.args[0] for call in asked.call_args_list if call.args[0].name == "corpus"]

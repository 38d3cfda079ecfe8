"""Our reading of dvc.yaml and our digests against DVC's own."""

import os
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from lm.inputs.hashed import read_ignored
from tasks.core.config import ConfigError, read_params
from tasks.core.yaml import read_yaml
from tasks.runner.graph import read_graph
from tasks.runner.key import dependency_md5s, locked_key, memo_key, stage_key
from tests import repositories
from tests.project import ROOT


def test_the_graph_is_the_one_dvc_reads() -> None:
    ours = read_graph(ROOT)
    with Repo(str(ROOT)) as repo:
        theirs = {stage.addressing: stage for stage in repo.index.stages}
    assert set(ours) == set(theirs)
    for address, stage in theirs.items():
        assert ours[address].cmd == stage.cmd
        assert sorted(ours[address].deps) == sorted({d.def_path for d in stage.deps if not hasattr(d, "params")})
        assert ours[address].params == [name for d in stage.deps if hasattr(d, "params") for name in d.params]
        assert ours[address].outs == [o.def_path for o in stage.outs if not o.metric]
        assert ours[address].meta == (stage.meta or {})


def make_repo(folder: Path) -> None:
    """A project with all that a listing can trip over, and an input beside it."""
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "test_kept.py").write_text("not ignored: .dvcignore ends at the project")
    folder.mkdir()
    (folder / "in" / "deep").mkdir(parents=True)
    (folder / "in" / "b.txt").write_bytes(b"one\r\ntwo\n")
    (folder / "in" / "deep" / "a.txt").write_text("\N{SNOWMAN}")
    (folder / "in" / "__pycache__").mkdir()
    (folder / "in" / "__pycache__" / "x.pyc").write_text("no code of ours")
    (folder / "in" / "test_x.py").write_text("no test of ours")
    (folder / "in" / "deep-er.txt").write_text("sorts before deep/a.txt")
    (folder / "in" / ".git").mkdir()
    (folder / "in" / ".git" / "HEAD").write_text("ignored whatever .dvcignore says")
    (folder / "in" / "empty").mkdir()
    (folder / "single file.txt").write_text("alone")
    (folder / ".dvcignore").write_text((ROOT / ".dvcignore").read_text())
    (folder / "params.yaml").write_text(
        "toy: {steps: 3, where: in, rates: [1.0e-05, 0.0003, 2.0], flag: true}\nseed: 1\n"
        "libraries: {torch: 2.13.0, python: '3.11', absent: null, other: 1.0.0}\n"
    )
    stage = {
        "cmd": "mkdir -p data && cat in/b.txt > data/out",
        "deps": ["${toy.where}", "single file.txt", "../outside"],
        "params": ["toy", "seed", "libraries.torch", "libraries.python", "libraries.absent"],
        "outs": ["data/out"],
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"toy": stage}}))


def test_digests_are_those_of_dvc_lock(tmp_path: Path, monkeypatch) -> None:
    project = tmp_path / "project"
    make_repo(project)
    monkeypatch.chdir(project)
    repositories.init(project)
    (project / ".dvcignore").write_text((ROOT / ".dvcignore").read_text())  # `dvc init` writes one of its own
    repositories.dvc(project, "repro", "-q", surroundings={**os.environ, "DVC_NO_ANALYTICS": "1"})
    locked = read_yaml(project / "dvc.lock")["stages"]["toy"]
    entry = read_graph()["toy"]
    md5s = dependency_md5s(entry, read_ignored())
    assert md5s == {d["path"]: d["md5"] for d in locked["deps"]}
    assert locked_key(locked) == stage_key(entry, md5s, read_params())
    assert locked["params"]["params.yaml"]["libraries.torch"] == "2.13.0"


def test_the_key_changes_with_all_that_decides_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    project = tmp_path / "project"
    make_repo(project)
    monkeypatch.chdir(project)
    entry, params = read_graph()["toy"], {"toy": {"steps": 3}, "seed": 1, "other": 5}

    def key(params: dict = params) -> str:
        return stage_key(entry, dependency_md5s(entry, read_ignored()), params)

    first = key()
    assert key({**params, "other": 6}) == first and key({**params, "seed": 2}) != first
    versions = {"torch": "2.13.0", "other": "1.0.0"}
    with_versions = key({**params, "libraries": versions})
    assert with_versions == key({**params, "libraries": {**versions, "other": "2.0.0"}}) != first
    assert with_versions != key({**params, "libraries": {**versions, "torch": "2.14.0"}})
    (project / "in" / ".git" / "HEAD").write_text("still ignored")
    assert key() == first
    (project / "in" / "test_x.py").write_text("an input like any other")
    assert key() != first
    first = key()
    (project / "in" / "b.txt").write_bytes(b"one\ntwo\n")
    assert key() != first


def test_a_stage_whose_input_dvc_ignores_has_no_key(tmp_path: Path, monkeypatch) -> None:
    project = tmp_path / "project"
    make_repo(project)
    monkeypatch.chdir(project)
    (project / ".dvcignore").write_text("/in/\n")
    with pytest.raises(
        ConfigError, match=r"^in is ignored by \.dvcignore, so DVC would not see it change: move it else"
    ):
        dependency_md5s(read_graph()["toy"], read_ignored())


def test_a_memo_outlives_new_data_and_neither_new_code_nor_new_params() -> None:
    entry, params = read_graph(ROOT)["dedup"], read_params(ROOT / "params.yaml")
    md5s = dict.fromkeys(entry.deps, "1")
    key = memo_key(entry, md5s, params)
    assert memo_key(entry, {**md5s, "data/ingest": "2"}, params) == key
    assert memo_key(entry, {**md5s, "tasks/dedup/stage.py": "2"}, params) != key
    assert memo_key(entry, md5s, {**params, "dedup": {}}) != key and memo_key(entry, md5s, {**params, "rl": {}}) == key

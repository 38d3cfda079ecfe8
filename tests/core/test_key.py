"""Our reading of dvc.yaml and our digests against DVC's own."""

import subprocess
import sys
from pathlib import Path

import yaml
from dvc.repo import Repo

from tasks.core.graph import read_graph
from tasks.core.key import dependency_md5s, read_ignored, stage_key
from tests.project import ROOT


def test_the_graph_is_the_one_dvc_reads() -> None:
    ours = read_graph(ROOT)
    with Repo(str(ROOT)) as repo:
        theirs = {stage.addressing: stage for stage in repo.index.stages}
    assert set(ours) == set(theirs)
    for address, stage in theirs.items():
        assert ours[address].cmd == stage.cmd
        assert sorted(ours[address].deps) == sorted(d.def_path for d in stage.deps if not hasattr(d, "params"))
        assert [ours[address].outs[0]] == [o.def_path for o in stage.outs if not o.metric]


def make_repo(folder: Path) -> None:
    (folder / "in" / "deep").mkdir(parents=True)
    (folder / "in" / "b.txt").write_bytes(b"one\r\ntwo\n")
    (folder / "in" / "deep" / "a.txt").write_text("\N{SNOWMAN}")
    (folder / "in" / "__pycache__").mkdir()
    (folder / "in" / "__pycache__" / "x.pyc").write_text("ignored")
    (folder / "in" / "test_x.py").write_text("ignored")
    (folder / "single file.txt").write_text("alone")
    (folder / ".dvcignore").write_text((ROOT / ".dvcignore").read_text())
    (folder / "params.yaml").write_text("toy: {steps: 3, where: in}\nseed: 1\n")
    stage = {
        "cmd": "mkdir -p data && cat in/b.txt > data/out",
        "deps": ["${toy.where}", "single file.txt"],
        "params": ["toy", "seed"],
        "outs": ["data/out"],
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"toy": stage}}))


def test_digests_are_those_of_dvc_lock(tmp_path: Path, monkeypatch) -> None:
    make_repo(tmp_path)
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q", "-f"],
        [sys.executable, "-m", "dvc", "repro", "-q"],
    ):
        if "init" in command and "dvc" in command:
            ignore = (tmp_path / ".dvcignore").read_text()
        subprocess.run(command, cwd=tmp_path, check=True, env={**__import__("os").environ, "DVC_NO_ANALYTICS": "1"})
        if "init" in command and "dvc" in command:
            (tmp_path / ".dvcignore").write_text(ignore)
    monkeypatch.chdir(tmp_path)
    locked = yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"]["toy"]
    entry = read_graph()["toy"]
    assert dependency_md5s(entry, read_ignored()) == {d["path"]: d["md5"] for d in locked["deps"]}


def test_the_key_changes_with_all_that_decides_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    make_repo(tmp_path)
    monkeypatch.chdir(tmp_path)
    entry, params = read_graph()["toy"], {"toy": {"steps": 3}, "seed": 1, "other": 5}

    def key(params: dict = params) -> str:
        return stage_key(entry, dependency_md5s(entry, read_ignored()), params)

    first = key()
    assert key({**params, "other": 6}) == first and key({**params, "seed": 2}) != first
    (tmp_path / "in" / "test_x.py").write_text("still ignored")
    assert key() == first
    (tmp_path / "in" / "b.txt").write_bytes(b"one\ntwo\n")
    assert key() != first

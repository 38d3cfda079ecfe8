"""A byte that flips in what a stage left is named by the stage that reads it, whatever file it is in."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from flows.stage.dvc_forks import dvc_fork_servers
from flows.stage.process import run_stage
from lm.inputs.hashed import read_ignored
from tasks.core.config import ConfigError
from tasks.core.tables import write_table
from tasks.core.yaml import dump_yaml
from tasks.runner.graph import Entry
from tasks.runner.intact import check_intact
from tasks.runner.key import file_md5, path_md5
from tests import repositories
from tests.project import ROOT, TINY, make_project

ENTRY = Entry("next", "true", ["data/made", "data/alone.json", "code.py"], [], ["data/next"])
KINDS = ["documents/00000.parquet", "tokens.npy", "model.safetensors", "config.json", "curves.jsonl", "empty/one"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a stage leaves, a file of each kind, with its lock and its listing in DVC's cache."""
    root = tmp_path_factory.mktemp("made")
    (root / "data" / "made" / "documents").mkdir(parents=True)
    (root / "data" / "made" / "empty").mkdir()
    write_table(root / "data/made/documents/00000.parquet", pa.table({"text": ["a text", "another"]}))
    np.save(root / "data/made/tokens.npy", np.arange(9, dtype=np.uint16))
    save_file({"w": np.ones(3, np.float32)}, root / "data/made/model.safetensors")
    (root / "data/made/config.json").write_text("{}")
    (root / "data/made/curves.jsonl").write_text('{"step": 0}\n')
    (root / "data/made/empty/one").write_bytes(b"\0")
    (root / "data/alone.json").write_text("[]")
    (root / "code.py").write_text("pass")
    listed = [{"md5": file_md5(root / "data/made" / name), "relpath": name} for name in sorted(KINDS)]
    md5 = path_md5(root / "data/made", read_ignored(root))
    cached = root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    cached.parent.mkdir(parents=True)
    cached.write_text(json.dumps(listed))
    outs = [{"path": "data/made", "md5": md5}, {"path": "data/alone.json", "md5": file_md5(root / "data/alone.json")}]
    (root / "dvc.lock").write_text(dump_yaml({"schema": "2.0", "stages": {"before": {"cmd": "true", "outs": outs}}}))
    return root


def look(root: Path) -> None:
    check_intact(ENTRY, {path: path_md5(root / path, read_ignored(root)) for path in ENTRY.deps}, root)


@settings(deadline=None)
@given(
    st.sampled_from([*(f"data/made/{name}" for name in KINDS), "data/alone.json"]),
    st.integers(0, 10**6),
    st.integers(0, 7),
)
def test_a_flipped_bit_of_any_file_is_one_line_with_its_name(made: Path, name: str, place: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = shutil.copytree(made, Path(folder) / "copy")
        look(root)
        path, content = root / name, bytearray((root / name).read_bytes())
        content[place % len(content)] ^= 1 << bit
        path.write_bytes(content)
        with pytest.raises(ConfigError) as told:
            look(root)
    top = "data/alone.json" if name == "data/alone.json" else "data/made"
    assert str(told.value) == (
        f"next: {name} is not as before left it: dvc.lock records another md5: remove {top} and run `make pipeline`, which brings "
        "it back from DVC's cache or makes it again"
    )


def test_a_file_too_many_or_too_few_and_a_cache_that_is_away(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "copy")
    (root / "data/made/tokens.npy").unlink()
    (root / "data/made/more").write_text("")
    with pytest.raises(ConfigError, match="^next: data/made/more and 1 more is not as before left it"):
        look(root)
    (root / ".dvc" / "cache").rename(tmp_path / "away")
    with pytest.raises(ConfigError, match="^next: data/made is not as before left it"):
        look(root)
    (root / ".dvc" / "config.local").write_text("[cache]\n    dir = ../../away\n")
    with pytest.raises(ConfigError, match="^next: data/made/more and 1 more"):
        look(root)


@pytest.mark.parametrize(
    "lock", [None, "", "stages: [", "stages: {before: {outs: [{path: data/made, md5: 0123}]}}", "stages: 1"]
)
def test_a_lock_that_is_not_there_or_cut_off_says_nothing(made: Path, tmp_path: Path, lock: str | None) -> None:
    root = shutil.copytree(made, tmp_path / "copy")
    (root / "data/made/config.json").write_text("[]")
    (root / "dvc.lock").unlink()
    if lock is not None:
        (root / "dvc.lock").write_text(lock)
    look(root)


def test_a_real_stage_says_so_and_what_it_says_mends_it(tmp_path: Path) -> None:
    root = make_project(tmp_path, TINY)
    (root / ".gitignore").write_text("/data\n.scratch\n")
    (root / ".dvcignore").unlink()
    repositories.init(root)
    extra = {"TOKENMILL_TRACKING": "off", "PYTHONPATH": str(ROOT)}
    said: list[str] = []

    def run(stage: str) -> tuple[int, str]:
        said.clear()
        ended = run_stage(root, stage, False, said.append, extra)
        return ended.code, ended.how

    with dvc_fork_servers(root, ["ingest", "dedup"], TINY):
        see_that_it_is_said_and_mended(root, run, said)


def see_that_it_is_said_and_mended(root: Path, run: Callable[[str], tuple[int, str]], said: list[str]) -> None:
    assert run("ingest") == (0, "Ran") and run("dedup") == (0, "Ran")
    [shard] = (root / "data" / "ingest" / "documents").glob("*.parquet")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert run("dedup")[0] == 2
    line = "dedup: data/ingest/documents/00000.parquet is not as ingest left it: dvc.lock records another md5: "
    assert [text for text in said if "is not as" in text] == [
        f"{line}remove data/ingest and run `make pipeline`, which brings it back from DVC's cache or makes it again"
    ]
    assert not any("Traceback" in text for text in said)
    shutil.rmtree(root / "data" / "ingest")
    assert run("ingest") == (0, "Unchanged") and run("dedup") == (
        0,
        "Unchanged",
    )  # out of the cache, as the lock has it

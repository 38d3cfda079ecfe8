"""What dvc.lock does not vouch for is shown as absent."""

from pathlib import Path

import pytest
import yaml

from tasks.core.graph import read_graph
from tasks.core.key import path_md5, read_ignored
from tasks.report.read import read_stages
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


@pytest.mark.parametrize("change", ["params", "method", "folder", "command", "data", "new dependency"])
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
    else:
        stages["dedup"]["deps"].pop(0)
    assert current(root, stages) == ["ingest"]


def test_a_change_late_leaves_the_earlier_stages(tmp_path: Path) -> None:
    root = build(tmp_path)
    stages = lock(root)
    del stages["rl"]
    assert current(root, stages) == ["ingest", "dedup", "pretrain", "evaluate@pretrain"]
    assert next(s for s in read_stages(root) if s.name == "rl").metrics == {}

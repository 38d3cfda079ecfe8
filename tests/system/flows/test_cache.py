"""A project whose DVC cache was moved away: what lies in data/ is put back into it, and no stage runs for it."""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.synthetic import repository
from flows.environment import environment
from flows.staleness.lost_objects import lacks_objects, recommit_lost_objects
from flows.staleness.plan import make_plan


def run(root: Path) -> str:
    given = {**environment(root), "PYTHONPATH": str(root), "TOKENMILL_TRACKING": "off"}
    given.pop("PREFECT_API_URL", None)
    done = subprocess.run(
        [sys.executable, "-m", "flows.pipeline"], cwd=root, env=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_cache_that_was_moved_away_is_filled_again_from_what_lies_here(tmp_path: Path) -> None:
    root = repository(tmp_path / "project", 2)
    run(root)
    assert "nothing to do" in run(root)
    shutil.move(root / ".dvc" / "cache", tmp_path / "away")
    said = run(root)
    assert "DVC's cache had lost the outputs of s0, s1: put back from data/" in said and "nothing to do" in said
    assert "put back" not in run(root)
    shutil.rmtree(root / "data" / "s0")
    said = run(root)  # DVC restores it: the cache has it, and the run cache knows of what
    assert "Running stage" not in said and (root / "data" / "s0" / "0").read_text() == "grain\n", said


def test_what_was_edited_is_not_put_back_as_what_the_lock_records(tmp_path: Path, monkeypatch) -> None:
    root = repository(tmp_path / "project", 2)
    for name, value in environment(root).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(root)
    subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet"], check=True)
    shutil.rmtree(root / ".dvc" / "cache")
    (root / "data" / "s1" / "0").write_text("edited\n")
    plan = make_plan(root, [])
    assert lacks_objects(plan) == {"s0", "s1"}
    assert (
        recommit_lost_objects(root, lacks_objects(plan))
        == "DVC's cache had lost the outputs of s0: put back from data/"
    )
    assert [stage.address for stage in make_plan(root, []) if stage.reason] == ["s1"]

"""dvc.lock in parts: DVC's own text, no entry lost to a neighbour, and never half a file."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.staleness.lockfile import keep_only, lock_of, merge, part_of
from lm.files import write_text
from tasks.runner.lock import entries_of, lock_entry, md5s
from tests.flows.small_graph import dvc, make_repo, surroundings
from tests.project import ROOT

MD5 = st.text("0123456789abcdef", min_size=32, max_size=32)
NUMBER = st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
# Without control characters, which YAML's writer and reader disagree about whoever uses them.
TEXT = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1)
PARAMS = st.recursive(
    NUMBER | TEXT | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
FILES = st.lists(st.fixed_dictionaries({"path": TEXT, "md5": MD5, "size": st.integers(0)}), max_size=3)
ENTRY = st.fixed_dictionaries(
    {
        "cmd": TEXT,
        "deps": FILES,
        "params": st.dictionaries(st.just("params.yaml"), PARAMS),
        "outs": FILES,
    }
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that plain `dvc repro` brought up to date."""
    folder = make_repo(tmp_path_factory.mktemp("lock") / "repo")
    dvc(folder, "repro")
    return folder


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text("abc@-", min_size=1), ENTRY, max_size=3))
def test_entries_come_back_from_their_text(entries: dict) -> None:
    assert entries_of(lock_of(entries)) == entries


def test_a_lock_is_cut_down_to_some_of_its_stages_which_dvc_still_finds_up_to_date(made: Path, tmp_path: Path) -> None:
    path, whole = made / "dvc.lock", (made / "dvc.lock").read_text()
    try:
        keep_only(made, ["a", "each@b", "none"])
        assert entries_of(path.read_text()) == {
            name: entry for name, entry in entries_of(whole).items() if name in ("a", "each@b")
        }
        before = path.stat().st_mtime_ns
        dvc(made, "repro", "a")
        keep_only(made, ["a", "each@b"])
        assert path.stat().st_mtime_ns == before
        keep_only(made, [])
        assert not path.exists()
    finally:
        path.write_text(whole)
    keep_only(tmp_path, ["a"])  # where there is none
    assert not list(tmp_path.iterdir())


def test_a_part_holds_what_was_asked_for(made: Path) -> None:
    part = entries_of(part_of(made, ["each@b", "a"]))
    assert list(part) == ["each@b", "a"] and part["a"] == lock_entry(made, "a")
    assert list(md5s(part["each@b"], "deps")) == ["data/b"]
    with pytest.raises(ValueError, match="has no entry of nothing; bring that stage up to date first"):
        part_of(made, ["a", "nothing"])


def test_an_entry_taken_out_and_put_back_is_as_dvc_wrote_it(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    path = made / "dvc.lock"
    text, entries = path.read_text(), entries_of(path.read_text())
    last = list(entries)[-1]
    write_text(path, lock_of({address: entry for address, entry in entries.items() if address != last}))
    assert merge(made, last, entries[last]) and path.read_text() == text
    changed = path.stat().st_ino
    assert not merge(made, last, entries[last]) and path.stat().st_ino == changed


def test_neighbours_lose_nothing(made: Path, tmp_path: Path) -> None:
    """Four that merge and a `dvc repro` that rewrites the file meanwhile."""
    program = "import sys; from pathlib import Path; from flows.staleness.lockfile import merge\n"
    program += "for n in range(4): merge(Path.cwd(), f'{sys.argv[1]}{n}', {'cmd': 'x', 'outs': []})"
    (made / "params.yaml").write_text("a: {value: 1}\nc: {value: 2}\n")
    started = [
        subprocess.Popen([sys.executable, "-c", program, name], cwd=made, env=surroundings(made)) for name in "wxyz"
    ]
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "-q", "-s", "c"]
    started.append(subprocess.Popen(command, cwd=made, env=surroundings(made)))
    assert [process.wait() for process in started] == [0] * 5
    found = entries_of((made / "dvc.lock").read_text())
    assert {f"{name}{n}" for name in "wxyz" for n in range(4)} | {"a", "b", "c"} <= set(found)
    assert found["c"]["params"] == {"params.yaml": {"c": {"value": 2}}}


def test_a_reader_never_meets_half_a_file_and_a_kill_leaves_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "dvc.lock"
    entries = {f"stage{n}": {"cmd": "x" * 200, "outs": []} for n in range(300)}
    write_text(path, lock_of(entries))
    program = "import sys; from pathlib import Path; from lm.files import write_text\n"
    program += "path = Path(sys.argv[1]); text = path.read_text(); print('begun', flush=True)\nwhile True: write_text(path, text, durable=True)"
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        sizes = {len(path.read_text()) for _ in range(500)}
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert sizes == {len(lock_of(entries))} and entries_of(path.read_text()) == entries


@pytest.mark.parametrize("text", ["schema: '2.0'\nstages:\n  a:\n    cmd: [", "", "just words", "stages: 3\n"])
def test_what_is_no_lock_is_left_as_it_is(made: Path, tmp_path: Path, text: str) -> None:
    folder = make_repo(tmp_path / "repo")
    (folder / "dvc.lock").write_text(text)
    with pytest.raises(ValueError, match="dvc.lock: not a lock file of DVC; `git checkout dvc.lock`"):
        merge(folder, "a", {"cmd": "x", "outs": []})
    assert (folder / "dvc.lock").read_text() == text

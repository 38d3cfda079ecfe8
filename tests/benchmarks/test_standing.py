"""Rows that no longer stand are marked: by a real repository, whose code changes after a row was made."""

import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.contest import Result
from benchmarks.rows import environment_facts, row
from benchmarks.run import names
from benchmarks.standing import commit_doubt, doubts_by_row, names_then, timed_code
from benchmarks.table import render
from tests.project import ROOT


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=n", "-c", "user.email=e", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A benchmark `toy` that times lm/work.py, by an arm in a file of its own, and lm/other.py, which it does not."""
    files = {
        "benchmarks/toy.py": 'arm = "benchmarks.toy_arms:ours"\n\ndef contests(threads): ...\n',
        "benchmarks/toy_arms.py": "from lm import work\n",
        "lm/__init__.py": "",
        "lm/work.py": "STEPS = 1\n",
        "lm/other.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def toy(commit: str, machine: str = "this", bench: str = "toy") -> dict:
    return {
        **row(bench, Result("A", None, "none", "time", "s", 1.0), 1, environment_facts()),
        "commit": commit,
        "machine": machine,
    }


def test_what_is_marked(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    assert timed_code("toy", repository) == (
        "benchmarks/toy.py",
        "benchmarks/toy_arms.py",
        "lm/__init__.py",
        "lm/work.py",
    )
    (repository / "lm/other.py").write_text("changed\n")
    rows = [toy(first), toy(first + "-dirty"), toy("0" * 40), toy(first, "another"), toy(first, bench="gone")]
    assert doubts_by_row(rows, repository) == ["", "dirty tree", "no such commit", "other machine", "no such benchmark"]


def test_a_row_older_than_its_code_is_marked(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    (repository / "lm/work.py").write_text("STEPS = 2\n")
    git(repository, "commit", "-qam", "second")
    second = git(repository, "rev-parse", "HEAD")
    assert doubts_by_row([toy(first), toy(second)], repository) == ["1 of its files changed since", ""]


def test_a_file_that_was_moved_and_described_anew_is_the_same_code(repository: Path) -> None:
    work = "import os\n\n\ndef work() -> int:\n    return sum(range(10)) + len(os.sep)\n"
    (repository / "lm/work.py").write_text(work)
    (repository / "benchmarks/toy_arms.py").write_text("from lm.work import work\n")
    git(repository, "commit", "-qam", "second")
    first = git(repository, "rev-parse", "HEAD")
    (repository / "lm/labour.py").write_text(work.replace("int:\n", 'int:\n    """Work."""\n'))
    (repository / "lm/work.py").unlink()
    (repository / "benchmarks/toy_arms.py").write_text("from lm.labour import work\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "third")
    timed_code.cache_clear()
    assert timed_code("toy", repository)[-1] == "lm/labour.py" and doubts_by_row([toy(first)], repository) == [""]
    commit_doubt.cache_clear(), names_then.cache_clear()
    (repository / "benchmarks/toy_arms.py").write_text("from elsewhere import work\n")
    assert doubts_by_row([toy(first)], repository) == ["1 of its files changed since"]


def test_what_a_process_of_its_own_runs_counts(repository: Path) -> None:
    (repository / "benchmarks/toy.py").write_text('RUNS = ("lm.work",)\n\ndef contests(threads): ...\n')
    timed_code.cache_clear()
    assert timed_code("toy", repository) == ("benchmarks/toy.py", "lm/work.py")
    (repository / "benchmarks/toy.py").write_text('RUNS = ("lm.gone",)\n')
    timed_code.cache_clear()
    with pytest.raises(ValueError, match=r"benchmarks/toy.py: RUNS: no module lm\.gone"):
        timed_code("toy", repository)


@pytest.mark.parametrize("name", ["kills", "training_tree", "plan_accuracy", "pretrain_step", "ledger", "step_digests"])
def test_a_bench_of_pretraining_times_the_stage_and_its_loop(name: str) -> None:
    assert {"tasks/pretrain/stage.py", "lm/training/loop.py"} <= set(timed_code(name))


def test_benches_name_what_they_run() -> None:
    """By its module in full, in words that a reader of the source sees; a started process is named in RUNS."""
    assert {"benchmarks/plain.py", "benchmarks/pretrain_peers.py"} <= set(timed_code("pretrain_step"))
    assert {"tasks/ingest/stage.py", "tasks/dedup/methods/minhash.py"} <= set(timed_code("larger_than_memory"))
    assert {"flows/pipeline/__main__.py", "flows/pipeline/flow.py"} <= set(timed_code("orchestration"))
    for file in (ROOT / "benchmarks").glob("*.py"):
        text = file.read_text()
        assert file.name == "run.py" or 'f"benchmarks.{' not in text, file
        if re.search(r'(start|run)_stage\(|-m tasks\.runner|"-m", "flows', text):
            assert re.search(r"^RUNS = \(", text, re.M), file


def test_a_mark_stands_at_the_end_of_its_line() -> None:
    good, bad = render([toy("a"), toy("b")], head=False, marks=["", "dirty tree"]).splitlines()
    assert good.endswith("none") and bad.endswith("none  ! dirty tree")


def test_of_a_room_the_methods_that_are_named_count() -> None:
    files = timed_code("dedup")
    assert "tasks/dedup/methods/minhash.py" in files and "benchmarks/dedup_peers.py" in files
    assert "tasks/dedup/methods/semantic.py" not in files


@pytest.mark.parametrize("name", names())
def test_every_benchmark_has_code_that_it_times(name: str) -> None:
    assert all((ROOT / file).is_file() for file in timed_code(name)) and timed_code(name)

"""The harness, with toy arms: no time is measured here."""

import itertools
import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.contest import Arm, Contest, Metric, Result, Sample, run_contest
from benchmarks.rows import KEYS, append, commit, environment_facts, machine, read, row
from benchmarks.run import names
from benchmarks.subprocess_arm import subprocess_arm
from benchmarks.table import newest, render

SECONDS = Metric("time", "s")
RATE = Metric("rate", "MB/s", higher_is_better=True)


class Toy:
    """Arms that say who ran when and take their values from a list; the first run is the warm-up."""

    def __init__(self) -> None:
        self.order = ""

    def arm(self, name: str, *values: float, answer: object = 1, metric: str = "time") -> Arm:
        following = itertools.cycle([99.0, *values])

        def measure() -> Sample:
            self.order += name[0]
            return Sample({metric: next(following)}, answer)

        return Arm(name, measure)


def test_pairs_take_turns_in_going_first_after_the_gate() -> None:
    toy = Toy()
    peers = (toy.arm("Brown", *[1.0] * 5), toy.arm("Clark", *[1.0] * 5))
    list(run_contest(Contest(toy.arm("A", 1.0), (SECONDS,), peers)))
    assert toy.order == "AB" + "ABBAABBAAB" + "AC" + "ACCAACCAAC"


def test_ratios_are_per_pair_and_warm_up_is_not_counted() -> None:
    toy = Toy()
    contest = Contest(toy.arm("A", 1.0, 2.0, 4.0), (SECONDS,), (toy.arm("B", 3.0, 2.0, 16.0),), pairs=3, added=True)
    ours, theirs, added = run_contest(contest)
    assert ours == Result("A", "B", "passed", "time", "s", 2.0, [3.0, 1.0, 4.0], 3)
    assert theirs == Result("B", None, "passed", "time", "s", 3.0, [], 3)
    assert (added.metric, added.value) == ("added_time", -2.0)


def test_above_one_means_ahead_for_rates_too() -> None:
    toy = Toy()
    arms = toy.arm("A", 20.0, metric="rate"), toy.arm("B", 5.0, metric="rate")
    ours, _ = run_contest(Contest(arms[0], (RATE,), (arms[1],), pairs=1))
    assert ours.ratios == [4.0]


def test_a_failing_gate_is_recorded_and_nothing_is_timed() -> None:
    toy = Toy()
    wrong, right = toy.arm("Bad", 1.0, answer=2), toy.arm("Clark", 1.0)
    bad, good, _ = run_contest(Contest(toy.arm("A", 1.0), (SECONDS,), (wrong, right), pairs=1))
    assert toy.order == "AB" + "AC" + "AC"
    assert bad == Result("A", "Bad", "failed: ours 1, peer 2", "time", "s", None, [], 0)
    assert good.gate == "passed"
    failed = row("toy", bad, 2, environment_facts())
    assert [failed[k] for k in ("value", "ratio_median", "ratio_min", "ratio_max", "runs")] == [
        None,
        None,
        None,
        None,
        0,
    ]
    assert "failed" in render([failed])


def test_a_gate_may_have_its_own_tolerance() -> None:
    toy = Toy()

    def close(ours: float, peer: float) -> str:
        return "" if abs(ours - peer) < 0.5 else f"{abs(ours - peer)} apart"

    for answer, gate in ((1.25, "passed"), (2.0, "failed: 1.0 apart")):
        result, *_ = run_contest(
            Contest(toy.arm("A", 1.0, answer=1.0), (SECONDS,), (toy.arm("B", 1.0, answer=answer),), close)
        )
        assert result.gate == gate


def test_a_bound_is_timed_whatever_it_answers_and_its_rows_say_so() -> None:
    toy = Toy()
    arms = toy.arm("A", 1.0, answer=1), toy.arm("B", 2.0, answer=2)
    ours, theirs, added = run_contest(Contest(arms[0], (SECONDS,), (arms[1],), bound=True, pairs=1, added=True))
    assert toy.order == "AB" + "AB" and ours.ratios == [2.0]
    assert {ours.gate, theirs.gate, added.gate} == {"none (a bound)"}


def test_a_contest_without_peers_is_a_plain_figure() -> None:
    (only,) = run_contest(Contest(Toy().arm("A", 3.0, 1.0, 2.0), (SECONDS,), pairs=3))
    assert only == Result("A", None, "none", "time", "s", 2.0, [], 3)


def test_a_row_has_exactly_its_keys_and_survives_the_file(tmp_path: Path) -> None:
    result = Result("A", "B", "passed", "time", "s", 2.0, [3.0, 1.0, 4.0], 3)
    written = row("toy", result, 2, environment_facts(("pytest", "no-such-package")))
    assert tuple(written) == KEYS
    assert (written["ratio_median"], written["ratio_min"], written["ratio_max"]) == (3.0, 1.0, 4.0)
    assert written["machine"] == machine()
    assert written["versions"]["pytest"] == pytest.__version__
    assert written["versions"]["no-such-package"] == "absent"
    append(tmp_path / "new" / "toy.jsonl", [written])
    append(tmp_path / "new" / "toy.jsonl", [written])
    assert list(read(tmp_path / "new")) == [json.loads(json.dumps(written))] * 2


def test_a_torn_results_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "claims.jsonl").write_text("{")
    (tmp_path / "toy.jsonl").write_text("{}\n{")
    with pytest.raises(ValueError, match=r"toy\.jsonl:2"):
        list(read(tmp_path))


def test_the_table_shows_the_newest() -> None:
    def dated(date: str, value: float, metric: str = "time") -> dict:
        return row("toy", Result("A", None, "none", metric, "s", value), 1, {**environment_facts(), "date": date})

    rows = [
        dated("2026-01-02", 1.0),
        dated("2026-01-03", 2.0),
        dated("2026-01-01", 3.0),
        dated("2026-01-01", 4.0, "other"),
    ]
    assert [r["value"] for r in newest(rows)] == [2.0, 4.0]


def test_the_table_lines_up_whatever_the_names() -> None:
    results = [
        Result("A", None, "none", "time", "s", 1.0),
        Result("B" * 60, "peer " * 9, "passed", "time", "s", 1.0, [1.0], 5),
    ]
    lines = render([row("toy", r, 1, environment_facts()) for r in results]).splitlines()
    assert [lines[0].index("gate"), lines[1].index("none")] == [lines[2].index("passed")] * 2


def test_a_changed_tree_is_dirty_but_new_results_are_not(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *arguments], cwd=tmp_path, check=True)

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "toy.jsonl").write_text("")
    assert not commit(tmp_path).endswith("-dirty")
    (tmp_path / "code.py").write_text("")
    assert commit(tmp_path).endswith("-dirty")


def double(number: int) -> tuple[dict[str, float], int]:
    """An arm that runs in its own process."""
    return {"time": 1.0}, 2 * number


def test_an_arm_apart_answers_and_reports_its_memory() -> None:
    sample = subprocess_arm("A", "tests.benchmarks.test_contest:double", number=21).measure()
    assert sample.answer == 42
    assert 1e6 < sample.values["peak_memory_bytes"] < 1e10


def test_an_environment_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="make peers"):
        subprocess_arm("A", "tests.benchmarks.test_contest:double", python=tmp_path / "python", number=1).measure()


def test_every_benchmark_is_found_by_its_contests() -> None:
    assert "roofs" in names()
    assert not {"run", "contest", "table"} & set(names())

"""`make claims`: what is said of a claim is of its study's runs, and one study that fails holds up no other."""

import json
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import torch

from flows.arena import claims, slots
from flows.arena import run_study as holding
from flows.arena.outcomes import Outcome, Outcomes
from flows.arena.pages.records import read_claims
from flows.arena.run_study import run_study
from flows.arena.runs import DIVERGED, Failed, Job
from flows.arena.slots import Slots
from lm.config import ConfigError
from lm.training.guard import FEW, Diverged, Guard
from tests.flows.arena.races import losses, study
from tests.project import ROOT

DAY = 86_400.0


class Clock:
    """The time of day, and what runs on a machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.machine, self.commit = 1_000 * DAY, "a machine", "a" * 40
        monkeypatch.setattr(slots.time, "time", lambda: self.now)
        monkeypatch.setattr(slots, "hardware", lambda: {"cpu": self.machine})
        monkeypatch.setattr("flows.arena.checkout.git", lambda *_: self.commit)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Studies whose runs are numbers, on a machine that is told what it is and when."""
    places, toss = SimpleQueue[Path](), losses({"muon": 0.9}, 0.003)
    places.put(Path("nowhere"))

    def run(root: Path, folder: Path, asked: Any, job: Job, digest: str, *_: Any) -> Outcome:
        return Outcome(**{**vars(toss(job)), "digest": digest})

    monkeypatch.setattr(slots, "run", run)
    monkeypatch.setattr(Slots, "_places", lambda self: places)
    return Clock(monkeypatch)


def held(folder: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> tuple[dict[str, Any], bytes]:
    monkeypatch.setattr(holding, "FOLDER", folder)
    result, page = run_study(ROOT, "a", study(preset="arena", budget={"tokens": 40960}, **given), 1, "a command")
    return result, page.read_bytes()


def stamp(result: dict[str, Any]) -> tuple[str, str, str]:
    return result["date"], result["commit"], result["machine"]


def test_date_commit_and_machine_are_those_of_the_newest_run(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = held(tmp_path, monkeypatch)
    assert stamp(first[0]) == ("1972-09-27", "a" * 12, "a machine")
    clock.now, clock.machine, clock.commit = clock.now + DAY, "another", "b" * 40
    assert held(tmp_path, monkeypatch) == first  # nothing ran
    assert stamp(held(tmp_path, monkeypatch, seeds=6)[0]) == ("1972-09-28", "b" * 12, "another")


def test_runs_that_do_not_say_when_they_were_made_have_it_from_their_result_or_from_nothing(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of before outcomes said so."""
    first = held(tmp_path, monkeypatch)
    path, result = tmp_path / "runs.jsonl", tmp_path / "a" / "result.json"
    lines = [json.loads(line) for line in path.read_text().split("\n") if line]
    new = {"made", "commit", "machine"}
    text = "\n".join(json.dumps({key: value for key, value in line.items() if key not in new}) for line in lines)
    path.write_text(text)
    assert {outcome.made for outcome in Outcomes(tmp_path).known.values()} == {0.0}
    clock.now, clock.commit = clock.now + DAY, "b" * 40
    assert held(tmp_path, monkeypatch) == first
    result.unlink()
    unknown, page = held(tmp_path, monkeypatch)
    assert stamp(unknown) == ("", "", "") and b"<dd>not known</dd>" in page
    assert stamp(held(tmp_path, monkeypatch, seeds=6)[0]) == ("1972-09-28", "b" * 12, "a machine")


CLAIM = "{room: pretrain.optimizer, method: m, source: s, headline: h, study: %s, expects: {ratio: 0.9, better: lower}}"
CLAIMS = f"""
muon: {CLAIM % "one"}
lion: {CLAIM % "one"}
adamw: {CLAIM % "two"}
soap: {CLAIM % "three"}
none: {{room: a, method: m, source: s, headline: h, cannot: no machine}}
"""


def result(name: str, arms: list[str], ratio: float) -> dict[str, Any]:
    """What a study of this name found."""
    beside = {
        "ratio": ratio,
        "t": [ratio, ratio],
        "bootstrap": [ratio, ratio],
        "verdict": "better",
        "why": "",
        "pairs": 4,
    }
    every = [{"name": each, "trials": [], "runs": [], "warnings": []} for each in ["base", *arms]]
    return {
        "name": name, "baseline": "base", "arms": every, "parameters": 1, "tokens": 1, "commit": "c", "machine": "m",
        "date": "2026-01-01", "comparisons": [{"arm": arm, "quantity": "value", "level": 0.98, **beside} for arm in arms],
    }  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout in which the first and the third study end well, and the second as `errors` says."""
    (tmp_path / "claims.yaml").write_text(CLAIMS)
    (tmp_path / "studies").mkdir()
    for name in ("one", "two"):
        (tmp_path / "studies" / f"{name}.yaml").write_text(json.dumps(study().model_dump()))
    found = {"one": ["muon", "lion"], "two": ["adamw"], "three": ["soap"]}
    ratios = {"one": 0.8}

    def held(root: Path, name: str, *_: Any) -> dict[str, Any]:
        if name == "two":
            raise Failed("the stage's last line")
        if name == "three":
            (root / ".studies" / name).mkdir(parents=True, exist_ok=True)
            (root / ".studies" / name / "index.html").write_text("")
        return result(name, found[name], ratios.get(name, 0.5))

    monkeypatch.setattr(claims, "study_result", held)
    monkeypatch.setattr(claims, "unclaimed_methods", lambda *_: {})
    return tmp_path


def rows(root: Path) -> dict[str, Any]:
    lines = (root / "benchmarks/results/claims.jsonl").read_text().splitlines()
    return {row["method"]: row for row in map(json.loads, lines)}


def test_a_study_that_fails_is_said_and_the_rest_are_held(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr("sys.argv", ["claims"])
    assert claims.main() == 1
    assert list(rows(root)) == ["muon", "lion", "soap", "none"]
    assert capsys.readouterr().err.splitlines()[-1] == "not held: two: the stage's last line"

    def wrong(*_: Any) -> dict[str, Any]:
        raise ConfigError("a mistake that all have")

    monkeypatch.setattr(claims, "study_result", wrong)
    assert claims.main() == 2
    assert list(rows(root)) == ["muon", "lion", "soap", "none"]  # as they were
    assert capsys.readouterr().err.splitlines()[-1] == "not held: one, two, three: a mistake that all have"


def test_a_study_that_is_held_for_one_claim_renews_the_rows_of_all(root: Path) -> None:
    said, failed = claims.judge_claims(root, ["muon"], 1)
    assert [row["method"] for row in said] == ["muon"] and not failed
    assert {name: row["ratio"] for name, row in rows(root).items()} == {"muon": 0.8, "lion": 0.8, "none": None}


@pytest.mark.parametrize("text", ["", "room: 3", "arms: {", "\xff"])
def test_a_file_of_studies_that_is_none_is_named_before_anything_runs(
    text: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Claims need none of it; it was read behind the runs, where its mistake took the place of Ctrl-C."""
    (root / "studies" / "notes.yaml").write_bytes(text.encode("latin-1"))
    ran = list[str]()
    monkeypatch.setattr(claims, "study_result", lambda root, name, *_: ran.append(name))
    monkeypatch.setattr("sys.argv", ["claims"])
    monkeypatch.chdir(root)
    assert claims.main() == 2 and not ran
    assert len(lines := capsys.readouterr().err.splitlines()) == 1 and "studies/notes.yaml: " in lines[0]


def test_a_claim_that_is_stopped_says_so_and_keeps_its_rows(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(root: Path, *_: Any) -> dict[str, Any]:
        (root / "studies" / "notes.yaml").write_text("arms: {")
        raise KeyboardInterrupt

    monkeypatch.setattr(claims, "study_result", stopped)
    monkeypatch.setattr("sys.argv", ["claims"])
    monkeypatch.chdir(root)
    assert claims.main() == 130 and list(rows(root)) == ["none"]


@pytest.mark.parametrize("key", ["study", "control", "quantity", "headline"])
def test_a_row_of_what_a_claim_no_longer_says_is_taken_out(key: str, root: Path) -> None:
    claims.judge_claims(root, [], 1)
    before = rows(root)
    before["lion"][key] = before["none"][key] = "another"
    path = root / "benchmarks/results/claims.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in before.values()))
    said, _ = claims.judge_claims(root, ["none"], 1)
    assert [row["method"] for row in said] == ["none"] and list(rows(root)) == ["muon", "soap", "none"]
    assert rows(root)["none"][key] != "another"
    claims.judge_claims(root, ["lion"], 1)
    assert list(rows(root)) == ["muon", "lion", "soap", "none"]


def test_a_line_that_is_no_row_is_named(root: Path) -> None:
    claims.judge_claims(root, [], 1)
    path = root / "benchmarks/results/claims.jsonl"
    path.write_text(path.read_text() + '{"method": "mu')
    with pytest.raises(ConfigError, match=r"^benchmarks/results/claims\.jsonl:5: no row: "):
        claims.judge_claims(root, [], 1)


def test_a_row_of_a_study_that_is_not_held_is_marked(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    claims.judge_claims(root, [], 1)

    def fails(*_: Any) -> dict[str, Any]:
        raise Failed("the last line")

    monkeypatch.setattr(claims, "study_result", fails)
    monkeypatch.chdir(root)
    for more in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", ["claims", *more])
        assert claims.main() == 1
    text, _, listed = capsys.readouterr().out.partition("[")
    marked = "(as it was before: its study is not held)"
    assert [marked in line for line in text.splitlines()[:4]] == [True, True, True, False]
    found = {row["method"]: row["not_held"] for row in json.loads("[" + listed)}
    assert found == {"muon": "the last line", "lion": "the last line", "soap": "the last line", "none": ""}
    assert not any("not_held" in row for row in rows(root).values())


def test_only_what_is_there_is_linked(root: Path) -> None:
    claims.judge_claims(root, [], 1)
    page, docs = (root / ".studies/claims.html").read_text(), (root / "docs/claims.md").read_text()
    assert 'href="three/index.html"' in page and "one/index.html" not in page
    assert "(../studies/one.yaml)" in docs and "three.yaml" not in docs


def test_what_was_not_measured_has_no_date(root: Path) -> None:
    claims.judge_claims(root, [], 1)
    assert [c.date for c in read_claims((root / claims.ROWS).read_text()) if c.method == "none"] == [""]


def test_behind_a_run_that_failed_another_study_can_be_held(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages that are told to stop let none begin from then on."""

    def fails(*_: Any) -> Outcome:
        raise Failed("a line")

    stopped = list[bool]()
    monkeypatch.setattr(slots, "stop_all", lambda: stopped.append(True))
    with monkeypatch.context() as patch:
        patch.setattr(slots, "run", fails)
        with pytest.raises(Failed):
            held(tmp_path, monkeypatch)
    assert not stopped and held(tmp_path, monkeypatch)[0]["arms"]


def test_a_run_diverged_where_the_guard_says_so_and_not_where_a_plan_is_wrong() -> None:
    guard = Guard(0.0, 2.0)
    with pytest.raises(Diverged) as first:
        guard.accept(12, float("nan"), 1.0)
    guard.load(
        {
            name: torch.tensor(values)
            for name, values in {"losses": [9.0] * FEW, "norms": [], "first": [1.0] * FEW}.items()
        }
    )
    with pytest.raises(Diverged) as second:
        guard.accept(50, 9.0, 1.0)
    assert all(DIVERGED.search(f"pretrain: {caught.value}") for caught in (first, second))
    wrong = "curriculum.tokens_per_step: step 3 of the plan has 5 sequences, which 2 shards cannot share"
    assert not DIVERGED.search(f"params.yaml: {wrong}") and not DIVERGED.search(wrong)


def test_the_pages_say_which_claims_have_no_row_and_of_which_study(root: Path) -> None:
    """Two of five have one; the pages counted these alone."""
    claims.judge_claims(root, ["none", "soap"], 1)
    page, docs = (root / ".studies/claims.html").read_text(), (root / "docs/claims.md").read_text()
    said = "3 more have no row yet: `make claims` holds them."
    assert said in docs.splitlines()[6] and "* one: muon, lion\n* two: adamw\n" in docs
    assert said.replace("`", "") in page and "<li>one: muon, lion</li>" in page and "<li>two: adamw</li>" in page
    claims.judge_claims(root, ["muon"], 1)
    assert "1 more has no row yet" in (root / "docs/claims.md").read_text()

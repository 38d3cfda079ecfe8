"""A run that two studies ask for is made once, and neither's table differs for it, wherever a study was killed."""

import json
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from flows.arena import claims, slots
from flows.arena import run_study as holding
from flows.arena.checkout import Checkout
from flows.arena.names import study_name
from flows.arena.outcomes import Outcome
from flows.arena.run_study import run_study
from flows.arena.runs import Job, watched
from flows.arena.slots import Slots, clear_other, runs_at_once, threads_of
from flows.arena.study import Study
from flows.arena.study_plan import in_lines, plans_of
from flows.params.compose import compose
from lm.config import ConfigError
from tasks.runner.git import git
from tests.project import ROOT

ARMS: dict[str, dict[str, Any]] = {
    "embeddings": {"plain": {"method": []}, "x0": {"method": [{"name": "x0"}]}},
    "mixer": {
        "attention": {"method": {"name": "attention"}},
        "gru": {"method": {"name": "minimal_rnn", "kind": "gru"}},
    },
}
RATE = "pretrain.optimizer.lr"


def study(room: str = "embeddings", **given: Any) -> Study:
    """A study of a part of the model beside that part as it is by default, so that two rooms have one baseline."""
    values = {
        "room": f"pretrain.model.{room}",
        "baseline": next(iter(ARMS[room])),
        "arms": ARMS[room],
        "trials": 1,
        "seeds": 3,
        "budget": {"tokens": 163840},
        **given,
    }
    return Study.model_validate(values, strict=False)


def drawn(job: Job) -> float:
    """A value of what the run is of, whatever its arm is called and however the arm says it."""
    params = compose(ROOT, "arena", job.assignments)
    model = {
        key: value for key, value in params["pretrain"]["model"].items() if value not in ([], {"name": "attention"})
    }
    said = json.dumps([params["seed"], model, params["pretrain"]["optimizer"]], sort_keys=True)
    return 2 + int(sha256(said.encode()).hexdigest()[:8], 16) / 2**32


class Killed(Exception):
    """In the place of a signal that ends the process."""


class Machine:
    """Runs that end at once. made: by what they are of. kills: after so many runs, from there on."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []
        self.kills: int | None = None

    def run(self, root: Path, folder: Path, asked: Study, job: Job, digest: str, *_: Any) -> Outcome:
        if self.kills == len(self.made):
            raise Killed
        self.made.append((job.arm, job.seed))
        return Outcome(digest, job.arm, job.tuned, job.seed, drawn(job), 1.0, 1e9, 163840, data=f"data {job.seed}")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made, places = Machine(), SimpleQueue[Path]()
    places.put(Path("nowhere"))
    monkeypatch.setattr(slots, "run", made.run)
    monkeypatch.setattr(slots, "stop_all", lambda: None)
    monkeypatch.setattr(Slots, "_places", lambda self: places)
    return made


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Holds a study in this folder of tmp_path, and gives its result."""

    def held(name: str, asked: Study, folder: str = "studies", checkout: Checkout | None = None) -> dict[str, Any]:
        monkeypatch.setattr(holding, "FOLDER", tmp_path / folder)
        result, _ = run_study(ROOT, name, asked, 1, "a command", checkout or Checkout(ROOT, tmp_path / folder))
        return result

    return held


def table(result: dict[str, Any]) -> dict[str, Any]:
    """The result without what is said of where its runs come from, and of seconds, which are of then."""
    result["comparisons"] = [row for row in result["comparisons"] if row["quantity"] != "seconds"]
    for arm in result["arms"]:
        for run in [*arm["trials"], *arm["runs"]]:
            del run["study"]
    return result


def test_a_baseline_of_two_studies_runs_once_and_their_tables_are_as_of_each_alone(machine: Machine, held: Any) -> None:
    first, second = held("first", study()), held("second", study("mixer"))
    base, arm = 1 + 3 + 3, 1 + 3
    assert [name for name, _ in machine.made].count("plain") == base and len(machine.made) == base + 2 * arm
    assert "attention" not in {name for name, _ in machine.made}
    assert {run["study"] for run in second["arms"][0]["runs"]} == {"first"}
    assert {run["study"] for run in second["arms"][1]["runs"]} == {"second"}
    alone = held("second", study("mixer"), "alone")
    assert len(machine.made) == 2 * (base + arm) + arm  # nothing of the other folder
    assert table(second) == table(alone) and table(first)["comparisons"] != second["comparisons"]


def test_seconds_of_runs_that_were_made_for_two_studies_have_no_verdict(machine: Machine, held: Any) -> None:
    """The second's arm is made at another hour than the baseline that it has from the first."""

    def of_seconds(result: dict[str, Any]) -> tuple[str, str]:
        (row,) = [row for row in result["comparisons"] if row["quantity"] == "seconds"]
        return row["verdict"], row["why"]

    first, second = held("first", study()), held("second", study("mixer"))
    assert of_seconds(first) == ("no difference", "")
    verdict, why = of_seconds(second)
    assert verdict == "cannot be compared" and "made for different studies, at other hours: set timed: true" in why
    assert of_seconds(held("third", study("mixer", timed=True))) == ("no difference", "")


def test_seconds_of_a_timed_study_and_of_its_variation_are_of_two_hours_too(machine: Machine, held: Any) -> None:
    """The arm of the second has the first's baseline, and one more seed for which both are made."""
    held("timed", study(timed=True))
    more = study(timed=True, seeds=4)
    arm = [entry for entry in machine.made if entry[0] == "x0"]
    held(study_name("timed", more), more)
    assert [entry for entry in machine.made if entry[0] == "x0"][len(arm) :] == [("x0", 4)]
    changed = study(timed=True, arms={"plain": {"method": []}, "x1": {"method": [{"name": "bigram", "rows": 64}]}})
    (row,) = [row for row in held(study_name("timed", changed), changed)["comparisons"] if row["quantity"] == "seconds"]
    assert row["verdict"] == "cannot be compared" and row["why"].endswith("a file of another name runs all of it again")


@pytest.mark.parametrize(
    "given",
    [
        {"set": ["pretrain.clip=0.5"]},
        {"set": ["ingest.max_bytes=300000"]},
        {"budget": {"tokens": 161792}},
        {"measure": "evaluate@pretrain.accuracy"},
        {"seed": 5000},
        {"timed": True},
    ],
    ids=str,
)
def test_a_run_with_another_key_is_made(given: dict[str, Any], machine: Machine, held: Any) -> None:
    held("first", study())
    held("second", study("mixer", **given))
    assert len(machine.made) == 2 * (1 + 3 + 3 + 1 + 3)


def test_of_tuned_arms_the_search_is_one_too(machine: Machine, held: Any) -> None:
    """Four trials, of which the fourth follows from those before; the second self's first three are the baseline's."""
    tuned: dict[str, Any] = {"tune": {RATE: [0.004, 0.064]}, "trials": 4}
    held("first", study(**tuned))
    assert len(machine.made) == 2 * (4 + 3) + (1 + 3)
    held("second", study("mixer", **tuned))
    assert len(machine.made) == 2 * (4 + 3) + (1 + 3) + (4 + 3)


@pytest.mark.parametrize("done", range(0, 15, 2))
def test_killed_anywhere_it_ends_in_the_same_table(done: int, machine: Machine, held: Any) -> None:
    def both(folder: str) -> list[dict[str, Any]]:
        return [held("first", study(), folder), held("second", study("mixer"), folder)]

    whole = both("whole")
    begun = len(machine.made)
    machine.kills = begun + done
    with pytest.raises(Killed):
        both("killed")
    machine.kills = None
    assert both("killed") == whole and len(machine.made) == 2 * begun


def test_code_that_is_committed_between_two_studies_of_a_command_ends_it(tmp_path: Path) -> None:
    """Keys are of files that are read once: a baseline would be of the old code beside arms of the new."""
    root = tmp_path / "root"
    root.mkdir()

    def commit(name: str, text: str) -> None:
        (root / name).write_text(text)
        git(root, "add", "--all")
        git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "a change")

    def places() -> Any:
        with ExitStack() as kept:
            return Slots(root, study(), "a study", 1, checkout, {}, kept)._places()

    git(root, "init", "--quiet")
    commit("code.py", "one")
    checkout = Checkout(root, tmp_path)
    with pytest.raises(ConfigError, match="PRESET: no preset"):  # it goes on to the parameters
        places()
    commit("notes.md", "of no run")
    with pytest.raises(ConfigError, match="PRESET: no preset"):
        places()
    commit("code.py", "other")
    with pytest.raises(ConfigError, match=r"^code\.py: committed since this command began.*: run it again$"):
        places()
    (root / "code.py").write_text("third")
    with pytest.raises(ConfigError, match=r"^code\.py: not committed"):
        places()


def test_what_a_kill_left_of_a_place_that_git_was_making_is_taken_away(tmp_path: Path) -> None:
    """Such a folder leads git to a worktree that it has taken back, and the study did not go on."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "params.yaml").write_text("")
    git(tmp_path, "add", "--all")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "a start")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    whole, left = (tmp_path / ".variants" / name for name in ("whole", "left"))
    git(tmp_path, "worktree", "add", "--quiet", "--detach", str(whole), commit)
    left.mkdir()
    (left / ".git").write_text(f"gitdir: {tmp_path}/.git/worktrees/left\n")
    for folder in (whole, left, tmp_path / "none"):
        clear_other(tmp_path, folder, commit)
    assert whole.exists() and not left.exists()
    clear_other(tmp_path, whole, "another")
    assert not whole.exists()


def as_line(outcome: Outcome) -> str:
    return json.dumps(vars(outcome))


def test_a_plan_counts_what_no_study_before_asks_for_and_what_is_known(
    machine: Machine, held: Any, tmp_path: Path
) -> None:
    both = {"first": study(), "second": study("mixer"), "third": study("mixer", timed=True)}

    def told() -> list[tuple[int, int, bool]]:
        found = plans_of(Checkout(ROOT, tmp_path / "studies"), both, threads_of(runs_at_once(1)))
        return [(plan.runs, plan.new, plan.known) for plan in found.values()]

    assert told() == [(11, 11, False), (4, 4, False), (11, 11, False)]
    held("first", both["first"])
    assert told() == [(11, 0, True), (4, 4, False), (11, 11, False)] and len(machine.made) == 11
    held("second", both["second"])
    assert told() == [(11, 0, True), (4, 0, True), (11, 11, False)]
    found = plans_of(Checkout(ROOT, tmp_path / "studies"), both, threads_of(runs_at_once(1)))
    assert list(in_lines(found))[1:] == [
        f"{'second':<24} up to date",
        f"{'third':<24} 11 runs of 11",
        "11 runs of 26 to make, at most",
    ]


def test_a_row_says_whose_runs_it_stands_on(machine: Machine, held: Any) -> None:
    values = {"source": "s", "headline": "h", "expects": {"ratio": 0.9, "better": "lower"}}
    made = claims.claims_of(
        {
            "x0": {"room": "pretrain.model.embeddings", "method": [], "study": "first", **values},
            "gru": {"room": "pretrain.model.mixer", "method": {}, "study": "second", **values},
        },
        "claims.yaml",
    )
    results = {"first": held("first", study()), "second": held("second", study("mixer"))}
    rows = {name: claims.row(name, claim, results[claim.study or ""]) for name, claim in made.items()}
    assert rows["x0"]["runs_of"] == [] and rows["gru"]["runs_of"] == ["first"]


def test_a_row_with_a_control_stands_on_the_runs_of_the_control_too(machine: Machine, held: Any) -> None:
    """Which another study may have made, whose baseline and arm it has not."""
    arms = {"gru": ARMS["mixer"]["gru"], "x0": {"pretrain.model.embeddings": [{"name": "x0"}]}, "attention": {}}
    values = {"room": "pretrain.model.mixer", "method": {}, "study": "second", "source": "s", "headline": "h"}
    values |= {"expects": {"ratio": 0.9, "better": "lower"}, "control": "x0"}
    claim = claims.claims_of({"attention": values}, "claims.yaml")["attention"]
    held("first", study())
    result = held(
        "second",
        study(
            "mixer",
            arms=arms,
            baseline="gru",
        ),
    )
    own = {arm["name"]: {run["study"] for run in arm["runs"]} for arm in result["arms"]}
    assert own == {"gru": {"second"}, "x0": {"first"}, "attention": {"first"}}
    for arm in result["arms"]:
        for run in [*arm["trials"], *arm["runs"]] if arm["name"] == "attention" else []:
            run["study"] = "second"
    assert claims.row("attention", claim, result)["runs_of"] == ["first"]


@pytest.mark.parametrize(
    ("room", "stage"),
    [
        ("pretrain.optimizer", "pretrain"),
        ("curriculum.order", "pretrain"),
        ("sft.linear", "sft"),
        ("rl.advantage", "rl"),
    ],
)
def test_rooms_whose_training_is_watched_alike_share(room: str, stage: str) -> None:
    assert watched(room) == stage

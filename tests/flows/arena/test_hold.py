"""A study whose arms have tokens of their own: they are trained on those, within the budget, and a law is fitted over them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flows.arena import run_study as holding
from flows.arena.fit_law import fit_law, in_words
from flows.arena.outcomes import Outcome
from flows.arena.run_study import run_study
from flows.arena.runs import Job
from flows.arena.study import Study, read_study
from flows.params.compose import compose
from lm.config import ConfigError
from tests.flows.arena.races import RATE, study
from tests.project import ROOT

STUDY = read_study(ROOT / "studies/tokens.yaml")


def changed(**given: Any) -> Study:
    """A study of AdamW and Muon, these keys of it changed."""
    return Study.model_validate({**study().model_dump(), **given}, strict=False)


class Told:
    """In the place of a study's slots: its runs end at once, with the loss of a law over the tokens that they were given."""

    threads = 1

    def __init__(self, root: Path, asked: Study, *_: Any) -> None:
        self._root, self._asked, self.done = root, asked, list[tuple[str, int]]()

    def do(self, jobs: Sequence[Job], say: Any) -> list[Outcome]:
        found = []
        for job in jobs:
            tokens = compose(self._root, self._asked.preset, job.assignments)["curriculum"]["tokens"]
            loss = 2.0 + 300 / tokens**0.5 + 0.001 * job.tuned.get(RATE, 0.0)
            found.append(
                Outcome("", job.arm, job.tuned, job.seed, loss, tokens=tokens, seconds=tokens / 1000, flop=1.0 * tokens)
            )
            self.done.append((job.arm, tokens))
        return found

    def clear(self) -> None:
        """There is nothing to clear."""


def held(
    asked: Study, folder: Path, monkeypatch: pytest.MonkeyPatch, fit: str | None = None
) -> tuple[dict[str, Any], list[tuple[str, int]]]:
    """(result, (arm, tokens) of every run) of the study, kept in the folder."""
    slots: list[Told] = []

    def made(*given: Any) -> Told:
        slots.append(Told(*given))
        return slots[-1]

    monkeypatch.setattr(holding, "Slots", made)
    monkeypatch.setattr(holding, "FOLDER", folder)
    result, _ = run_study(ROOT, "test", asked, 1, "a command", fit=fit)
    return result, slots[0].done


def test_arms_that_are_lengths_run_at_theirs_and_the_law_over_tokens_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, done = held(STUDY, tmp_path, monkeypatch)
    assert {tokens for _, tokens in done} == {40960, 61440, 81920, 122880, 163840}
    assert all(arm == f"tokens_{tokens}" for arm, tokens in done)
    law = fit_law("tokens", result)["fits"]["all arms"]["parameters"]
    assert law["E"]["value"] == pytest.approx(2.0, rel=1e-2) and law["a"]["value"] == pytest.approx(0.5, rel=2e-2)


@pytest.mark.parametrize("budget", [{"tokens": 163840}, {"seconds": 164.0}, {"bytes": 1000}], ids=str)
@pytest.mark.parametrize("own", [{"curriculum.tokens": 20480}, {"curriculum": {"tokens": 20480}}], ids=str)
def test_an_arm_has_its_own_tokens_beside_one_that_has_the_budgets(
    budget: dict[str, float], own: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = {"adamw": {"method": {"name": "adamw"}}, "short": {"method": {"name": "adamw"}, **own}}
    result, done = held(changed(arms=arms, budget=budget, seeds=3), tmp_path, monkeypatch)
    (long, short) = ({run["tokens"] for run in arm["runs"]} for arm in result["arms"])
    assert short == {20480} and long == {
        163840
    }  # of 163,840 and of 164,000, in whole steps; 163,840 is the preset's, too


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"set": ["curriculum.tokens=20480"]}, "set: curriculum.tokens: 20480: the budget decides it"),
        ({"set": ["curriculum={tokens: 20480}"]}, "set: curriculum.tokens: 20480: the budget decides it"),
        ({"tune": {"curriculum.tokens": [20480, 40960]}}, "tune: curriculum.tokens: the budget decides it"),
        (
            {"arms": {"adamw": {}, "muon": {"curriculum.tokens": 40961}}},
            "arms: muon: curriculum.tokens: 40,961 are more than the budget allows it, 40,960",
        ),
    ],
    ids=["set", "set whole", "tune", "an arm's, above it"],
)
def test_tokens_that_the_budget_would_override_are_refused_in_one_line(
    given: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError) as caught:
        held(changed(budget={"tokens": 40960}, **given), tmp_path, monkeypatch)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_tokens_are_set_and_tuned_beside_a_budget_that_is_none_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = held(changed(set=["curriculum.tokens=20480"], budget={"bytes": 1000}, seeds=3), tmp_path, monkeypatch)
    assert {run["tokens"] for arm in result["arms"] for run in arm["runs"]} == {20480}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"room": "sft.loss", "arms": {"adamw": {}, "muon": {"method": {"name": "confidence_limited"}}}, "tune": {}},
            "arms: muon: up to evaluate@pretrain.bits_per_byte the same run as the baseline, adamw: measure what depends on "
            "sft.loss",
        ),
        (
            {"arms": {"adamw": {"method": {"name": "adamw"}}, "muon": {}, "again": {"method": {"name": "adamw"}}}},
            "arms: again: up to evaluate@pretrain.bits_per_byte the same run as the baseline, adamw: leave it out",
        ),
        ({"measure": "evaluate@pretain.accuracy"}, "measure: no stage 'evaluate@pretain' with these parameters; did you mean"),
        ({"measure": "evaluate@prune.accuracy"}, "measure: no stage 'evaluate@prune' with these parameters"),
    ],
    ids=["all arms", "one arm", "a name", "a model that is not evaluated"],
)  # fmt: skip
def test_a_race_that_could_tell_nothing_apart_is_refused_in_one_line_before_any_run(
    given: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError) as caught:
        held(changed(budget={"tokens": 40960}, preset="arena", **given), tmp_path, monkeypatch)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_one_method_that_is_tuned_over_two_ranges_is_two_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {"adamw": {"method": {"name": "adamw"}}, "high": {"method": {"name": "adamw"}}}
    result, _ = held(
        changed(arms=arms, tune_of={"high": {RATE: [0.01, 1.0]}}, seeds=3, budget={"tokens": 40960}),
        tmp_path,
        monkeypatch,
    )
    assert [arm["name"] for arm in result["arms"]] == ["adamw", "high"]


def test_a_law_that_was_asked_for_is_in_the_file_and_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = held(STUDY, tmp_path, monkeypatch, fit="tokens")
    kept = json.loads((tmp_path / "test" / "result.json").read_text())
    assert kept == result and kept["fit"] == fit_law("tokens", {**result, "fit": None})
    (line,) = in_words(result["fit"])
    page = (tmp_path / "test" / "index.html").read_text()
    assert line in page and "A law over the runs" in page
    held(STUDY, tmp_path, monkeypatch)
    assert "A law over the runs" not in (tmp_path / "test" / "index.html").read_text()

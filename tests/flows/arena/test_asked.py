"""A study that is asked for: a room and its methods, or a file; and each mistake in one line."""

from argparse import Namespace
from pathlib import Path

import pytest

from flows.arena.asked import study_of
from flows.arena.study import read_study
from flows.params.compose import check, compose
from lm.config import ConfigError
from tests.project import ROOT


def asked(**given: object) -> Namespace:
    nothing = {
        "study": None,
        "room": None,
        "methods": [],
        "preset": None,
        "set": [],
        "budget": None,
        "target": None,
        "seeds": None,
        "trials": None,
    }
    return Namespace(**{**nothing, **given})


def test_a_room_and_methods_are_a_study_whose_arms_are_tuned_alike() -> None:
    name, study = study_of(
        ROOT, asked(room="pretrain.optimizer", methods=["adamw", "muon", "drop_muon"], seeds=4, budget="flop=1e12")
    )
    assert name == "pretrain-optimizer-adamw-muon-drop_muon" and study.baseline == "adamw" and study.seeds == 4
    assert (study.budget.kind, study.budget.amount) == ("flop", 1e12)
    widths = {key: high / low for arm in study.arms for key, (low, high) in study.ranges(arm).items()}
    assert set(widths) == {"pretrain.optimizer.lr", "pretrain.optimizer.adamw_lr"} and len(set(widths.values())) == 1


@pytest.mark.parametrize(
    "room", ["pretrain.schedule", "curriculum.method", "pretrain.model.norm", "quantize.method", "dedup.near"]
)
def test_methods_of_any_room_can_be_raced(room: str) -> None:
    from flows.arena.asked import methods

    names = list(methods(room))
    _, study = study_of(ROOT, asked(room=room, methods=names[:2]))
    assert list(study.arms) == names[:2]


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_of_the_project_has_parameters_that_can_be_used(path: Path) -> None:
    study = read_study(path)
    for arm in study.arms:
        tuned = {key: (low * high) ** 0.5 for key, (low, high) in study.ranges(arm).items()}
        check(ROOT, compose(ROOT, study.preset, study.assignments(arm, tuned, 1)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muno"]}, "METHODS: pretrain.optimizer has no 'muno'; did you mean 'muon'?"),
        ({"room": "pretrain.optimiser", "methods": ["a", "b"]}, "ROOM: pretrain has no 'optimiser'; did you mean 'optimizer'?"),
        ({"room": "pretrain.clip", "methods": ["a", "b"]}, "ROOM: pretrain.clip is no choice of methods"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "adamw"]}, "is one method"),
        ({"methods": ["adamw", "muon"]}, "ROOM and METHODS are needed"),
        ({"study": "studies/none.yaml"}, "none.yaml: no such file"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "budget": "300000"}, "BUDGET: '300000' must read"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "budget": "tokens=many"}, "BUDGET: 'many' is no number"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "budget": "tokens=inf"}, "BUDGET: 'inf' is not finite"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "budget": "bytes=-inf"}, "BUDGET: '-inf' is not finite"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "budget": "tokens=nan"}, "BUDGET: 'nan' is not finite"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "budget": "flop=1e400"}, "BUDGET: '1e400' is not finite"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "budget": "hours=3"}, "budget.hours"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "seeds": 2}, "seeds: Input should be greater than or equal to 3"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line(given: dict, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study_of(ROOT, asked(**given))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_with_unequal_budgets_or_names_that_there_are_not_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    begin = "room: pretrain.optimizer\nbaseline: adamw\narms: {adamw: {}, muon: {}}\n"
    for more, said in (
        ("budget: {tokens: 1000, seconds: 3}", "one of tokens, flop, seconds, bytes; these are tokens, seconds"),
        ("budget: {tokens: 1000}\ntrials: {adamw: 6, muon: 12}", "trials"),
        ("budget: {tokens: 1000}\nbudget_of: {muon: {tokens: 2000}}", "budget_of"),
        ("budget: {tokens: 1000}\ntune: {pretrain.clip: [2, 1]}", "2 to 1 is no range above 0"),
        ("budget: {tokens: 1000}\ntune_of: {muno: {a.b: [1, 2]}}", "no arm 'muno'"),
        ("budget: {tokens: 1000}\ncontrol: random", "control: no arm 'random'"),
        ("budget: {tokens: 1000", "no YAML"),
    ):
        path.write_text(begin + more)
        with pytest.raises(ConfigError) as caught:
            read_study(path)
        assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value) and "\n" not in str(caught.value)

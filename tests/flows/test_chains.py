"""Parameters that name models: what cannot be is one line, and what is asked for is what the models need."""

from typing import Any

import pytest

from flows.params.models import model_mistakes
from flows.stage.dvc_cli import with_goals
from tasks.runner.graph import goals_with_upstream, graph_of
from tests.project import DATA_STAGES, ROOT, TINY


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sft": {"model": "pretrian"}}, "sft.model: no stage 'pretrian'; did you mean 'pretrain'"),
        ({"models": ["rl", "quantise"]}, "models: no stage 'quantise'; did you mean 'quantize'"),
        ({"models": ["rl", "rl"]}, "models: names a model twice"),
        ({"models": []}, "models: must be a list of models, one at least"),
        ({"sft": {"model": "rl"}}, "sft.model: sft <- rl <- sft: a model cannot begin with itself"),
        ({"rl": {"scorer": "rewrad"}}, "rl.scorer: no stage 'rewrad'; did you mean 'reward'"),
        ({"rl": {"scorer": "rl"}}, "rl.scorer: rl: a model cannot be scored by what comes of it"),
        ({"rl": {"scorer": "distill"}}, "rl.scorer: rl <- distill: a model cannot be scored by what comes of it"),
        ({"distill": {"learner": "prun"}}, "distill.student.model: no stage 'prun'; did you mean 'prune'"),
        (
            {"distill": {"learner": "quantize"}},
            "distill.student.model: distill <- quantize: a model cannot begin with itself",
        ),
        ({"rl": {"model": "checkpoint"}, "checkpoint": {"folder": "/models/x"}}, "put it into data/checkpoint"),
    ],
)
def test_a_model_that_cannot_be_is_one_line(changes: dict[str, Any], words: str) -> None:
    params = {name: TINY[name] | changes.get(name, {}) if isinstance(TINY[name], dict) else TINY[name] for name in TINY}
    params["models"] = changes.get("models", TINY["models"])
    [line] = model_mistakes([name for name in TINY if isinstance(TINY[name], dict)], params)
    assert line.startswith("params.yaml: ") and words in line


def test_a_model_that_is_scored_with_is_made_before_what_it_scores() -> None:
    graph = graph_of(ROOT, {**TINY, "rl": {**TINY["rl"], "scorer": "reward"}})
    order = goals_with_upstream(graph)
    assert "data/reward" in graph["rl"].deps and order.index("reward") < order.index("rl")


def test_a_model_that_is_a_student_is_made_before_it_learns() -> None:
    asked = {"distill": {**TINY["distill"], "learner": "prune"}, "prune": {**TINY["prune"], "model": "rl"}}
    order = goals_with_upstream(graph_of(ROOT, {**TINY, **asked}))
    assert order.index("rl") < order.index("prune") < order.index("distill")


def test_targets_that_are_stored_are_made_before_they_teach() -> None:
    order = goals_with_upstream(graph_of(ROOT, {**TINY, "distill": {**TINY["distill"], "beside": "lessons"}}))
    assert order.index("rl") < order.index("lessons") < order.index("distill")


def test_a_folder_that_two_parameters_name_is_one_dependency() -> None:
    graph = graph_of(ROOT, {**TINY, "rl": {**TINY["rl"], "model": "checkpoint", "scorer": "checkpoint"}})
    assert graph["rl"].deps.count("data/checkpoint") == 1


@pytest.mark.parametrize(
    ("models", "made"),
    [
        (["pretrain", "sft", "rl", "distill", "quantize"], {"pretrain", "sft", "rl", "distill", "quantize"}),
        (["preference"], {"pretrain", "sft", "preference"}),
        (["rl"], {"pretrain", "sft", "rl"}),
        (["pretrain", "checkpoint"], {"pretrain"}),
    ],
)
def test_what_is_asked_for_is_what_the_models_need(models: list[str], made: set[str]) -> None:
    graph = graph_of(ROOT, {**TINY, "models": models})
    stages = {address for address in graph if "@" not in address}
    assert stages & set(goals_with_upstream(graph)) == {*DATA_STAGES, *made}
    assert {address for address in graph if "@" in address} == {f"evaluate@{model}" for model in models}


@pytest.mark.parametrize(
    ("words", "made"),
    [
        ("repro", "repro evaluate"),
        ("repro -q --force", "repro -q --force evaluate"),
        ("repro sft", "repro sft"),
        ("--wait-for-lock repro --single-item sft", "--wait-for-lock repro --single-item sft"),
        ("status", "status"),
    ],
)
def test_our_dvc_reproduces_the_goals_where_nothing_is_named(words: str, made: str, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    assert with_goals(words.split()) == made.split()

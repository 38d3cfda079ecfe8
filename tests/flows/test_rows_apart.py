"""Roundings whose scales span rows, beside every stage that trains: taken where a loss is a sum over tokens, and refused in one
line where rows are compared, are written by the model that learns, or are told how likely they are by themselves."""

from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from flows.arena.asked import methods
from flows.forecast.forecasts import step_of
from flows.params.compose import compose
from lm import precisions
from lm.checkpoint import save_model
from lm.config import ConfigError, methods_of
from tasks.about.needs import needs_of
from tasks.about.sections import Sections
from tasks.about.training import is_training_stage
from tasks.runner.rooms import config_of
from tests.lm.models import toy_model, toy_tokenizer
from tests.project import ROOT

TRAINERS = sorted(
    path.parent.name for path in (ROOT / "tasks").glob("*/stage.py") if is_training_stage(path.parent.name)
)
ROUNDING = methods_of(precisions)
# Slots that decide what a loss makes of rows
SLOTS = ("answers", "loss", "objective")
# What is to be set beside a method, or training refuses it whatever is rounded
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("rl", "online_dpo"): {"advantage": {"name": "best_and_worst"}},
    ("pretrain", "masked_diffusion"): {
        "model": {"width": 32, "layers": 2, "heads": 2, "ffn_width": 64, "causal": False}
    },
}
# What a forecast does not show: the loss is of a row's own probability; the student writes, where the teacher is forecast
OF_ANSWERS = {("sft", "confidence_limited"), ("distill", "student")}


@cache
def composed() -> dict[str, Any]:
    return compose(ROOT, "laptop", [])


@pytest.fixture(autouse=True)
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the model that salt learns from, where the preset has one."""
    folder = tmp_path / composed()["checkpoint"]["folder"]
    folder.mkdir(parents=True)
    save_model(folder, toy_model(context=256), toy_tokenizer())
    monkeypatch.chdir(tmp_path)


def variants(stage: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(the name of a method, the stage's section with it) of every method of those slots that it has."""
    section = composed()[stage]
    for slot in sorted(set(SLOTS) & config_of(stage).model_fields.keys()):
        for name in methods(f"{stage}.{slot}"):
            yield name, {**section, slot: {"name": name}, **BESIDE.get((stage, name), {})}


def sections(stage: str, section: dict[str, Any]) -> Sections:
    return Sections({**deepcopy(composed()), stage: section})


def needs_rows_apart(stage: str, name: str, section: dict[str, Any]) -> bool:
    """Whether rows of a step stay together, or the model that learns writes them, or the loss is one of OF_ANSWERS."""
    work = needs_of(stage, sections(stage, section)).work
    assert work
    step = step_of(work)
    writes = any(each.model is step.model for each in step.sampling)
    return step.batch.together > 1 or writes or (stage, name) in OF_ANSWERS


@pytest.mark.parametrize("stage", TRAINERS)
def test_scales_that_span_rows_are_refused_wherever_a_row_is_taken_by_itself(stage: str) -> None:
    for name, section in variants(stage):
        apart = needs_rows_apart(stage, name, section)
        for method in ROUNDING:
            rounded = sections(stage, {**section, "rounding": {"name": method().name}})
            if not (apart and method.spans_rows):
                assert rounded[stage].rounding == method()
                continue
            with pytest.raises(ConfigError) as refused:
                rounded[stage]
            said = str(refused.value)
            assert said.startswith(f"params.yaml: {stage}: rounding: {method().name} has scales that span rows")
            assert ": set rounding to {name: mus} or {name: none}" in said and "\n" not in said


def test_every_kind_of_stage_is_asked() -> None:
    expected = {
        "pretrain": {False}, "sft": {False, True}, "distill": {False, True}, "preference": {True}, "reward": {True}, "rl": {True},
    }  # fmt: skip
    assert {stage: {needs_rows_apart(stage, *each) for each in variants(stage)} for stage in expected} == expected

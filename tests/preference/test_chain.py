"""Preference between SFT and RL: each begins with the model of the one before."""

from pathlib import Path
from typing import Any

import pytest

from lm.checkpoint import save_model
from tasks.core.log import Log
from tasks.preference.stage import PreferenceConfig
from tasks.preference.stage import run as prefer
from tasks.rl.stage import RlConfig
from tasks.rl.stage import run as reinforce
from tasks.sft.stage import SftConfig
from tasks.sft.stage import run as tune
from tests.lm.models import toy_model, toy_tokenizer
from tests.project import digest

RECIPE: dict[str, Any] = {
    "optimizer": {"name": "adamw", "lr": 0.003},
    "schedule": {"name": "cosine"},
    "average": {"name": "last"},
    "problems": {"name": "arithmetic", "digits": 1},
    "seed": 0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What sft made of a toy model that can end an answer, and what preference made of that."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("pretrain", "sft", "preference", "rl"):
        (folder / name).mkdir()
    save_model(folder / "pretrain", toy_model(), toy_tokenizer())
    tune(SftConfig.model_validate({"model": "pretrain", "steps": 60, "batch": 16, **RECIPE}), folder, Log())
    pairs = [
        {"name": "mined", "samples": 24, "max_new_tokens": 4},
        {"name": "self_play", "samples": 4, "max_new_tokens": 4},
    ]
    config = {"model": "sft", "steps": 6, "batch": 8, "loss": {"name": "dpo"}, "pairs": pairs, **RECIPE}
    metrics = prefer(PreferenceConfig.model_validate(config), folder, Log())
    assert metrics["pairs"] > 8
    return folder


def test_rl_begins_with_what_preference_made(data: Path) -> None:
    found = {}
    for start in ("sft", "preference"):
        config = {"model": start, "steps": 2, "prompts": 4, "samples": 8, "max_new_tokens": 4, **RECIPE}
        config |= {"advantage": {"name": "grpo"}, "loss": {"name": "policy_gradient"}}
        reinforce(RlConfig.model_validate(config), data, Log())
        found[start] = digest(data / "rl")
    assert found["sft"] != found["preference"]
    assert len({digest(data / name) for name in ("pretrain", "sft", "preference", "rl")}) == 4

"""Preference between SFT and RL: each begins with the model of the one before."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lm.checkpoint import save_model
from lm.hugging_face.export import save_hf
from lm.model_folder import read_model
from tasks.core.log import Log
from tasks.preference.stage import PreferenceConfig
from tasks.preference.stage import run as prefer
from tasks.rl.stage import RlConfig
from tasks.rl.stage import run as reinforce
from tasks.sft.stage import SftConfig
from tasks.sft.stage import run as tune
from tests.lm.models import toy_model, toy_tokenizer
from tests.preference.made import rows, write_rows
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


def test_it_begins_with_a_model_of_somebody_elses(tmp_path: Path) -> None:
    """A folder of Hugging Face's, as `preference.model: checkpoint` names it."""
    for name in ("checkpoint", "preference", "in"):
        (tmp_path / name).mkdir()
    save_hf(toy_model(), toy_tokenizer(), tmp_path / "checkpoint", torch.float32)
    section = {"model": "checkpoint", "steps": 8, "batch": 12, "held_out_fraction": 0.0, "loss": {"name": "dpo"}}
    section |= {"pairs": [{"name": "files"}], "folder": str(write_rows(tmp_path / "in", rows()))}
    prefer(PreferenceConfig.model_validate({**section, **RECIPE}), tmp_path, Log())
    model, tokenizer = read_model(tmp_path / "preference")
    assert tokenizer == toy_tokenizer()
    before, after = (w.state_dict() for w in (read_model(tmp_path / "checkpoint")[0], model))
    assert before.keys() == after.keys() and not any(torch.equal(before[name], after[name]) for name in before)


def test_rl_begins_with_what_preference_made(data: Path) -> None:
    found = {}
    for start in ("sft", "preference"):
        config = {"model": start, "steps": 2, "prompts": 4, "samples": 8, "max_new_tokens": 4, **RECIPE}
        config |= {"advantage": {"name": "grpo"}, "loss": {"name": "policy_gradient"}}
        reinforce(RlConfig.model_validate(config), data, Log())
        found[start] = digest(data / "rl")
    assert found["sft"] != found["preference"]
    assert len({digest(data / name) for name in ("pretrain", "sft", "preference", "rl")}) == 4

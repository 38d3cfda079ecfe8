"""What a reward model says of itself before it runs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lm.checkpoint import save_model
from tasks.about.sections import Sections
from tasks.core.log import Log
from tasks.reward.contracts import contracts
from tasks.reward.inputs import inputs
from tasks.reward.needs import needs
from tasks.reward.stage import RewardConfig, run
from tasks.reward.toy import inputs as toy_inputs
from tests.preference.made import TOKENIZER, rows, write_rows, writer
from tests.project import TINY


def sections(**changes: Any) -> Sections:
    return Sections({**TINY, "reward": {**TINY["reward"], **changes}})


def test_what_holds_is_not_spoken_of() -> None:
    assert list(contracts(sections())) == list(inputs(sections())) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"batch": 3, "shards": 2},
            "params.yaml: reward.batch: 6 rows a step, 2 of which stay together, cannot be divided into 2 shards; change either",
        ),
        (
            {"pairs": [{"name": "self_play", "max_new_tokens": 60}]},
            "params.yaml: reward.pairs: max_new_tokens: no prompt fits the context of 64 less 60: the shortest has about 6 tokens; "
            "lower it, or raise pretrain.model.context",
        ),
    ],
)
def test_what_does_not_hold_is_one_line(changes: dict[str, Any], words: str) -> None:
    assert [str(finding) for finding in contracts(sections(**changes))] == [words]


def test_files_are_looked_at_beforehand(tmp_path: Path) -> None:
    given = {"pairs": [{"name": "files"}], "folder": str(tmp_path)}
    [found] = inputs(sections(**given))
    assert str(found).startswith(f"params.yaml: reward.folder: {tmp_path}: holds no file that fits '*' and ends in")
    write_rows(tmp_path, ["{", *rows(1)], "a.jsonl")
    assert list(inputs(sections(**given))) == []


def test_its_step_is_forecast_with_the_longest_pairs_and_all_heads() -> None:
    work = needs(sections(pairs=[{"name": "mined", "max_new_tokens": 20}], batch=3, steps=5, members=4)).work
    assert work and work.tokens == 5 * 6 * 26
    step = work.step()
    assert (step.batch.rows, step.batch.length, step.batch.together) == (6, 26, 2)
    share, _ = step.batch.loss(slice(2, 4))
    share.backward()
    heads = dict(step.model.named_parameters())["heads.weight"]
    assert share.item() > 0 and heads.shape[0] == 4 and torch.is_tensor(heads.grad)


@pytest.mark.parametrize("changes", [{}, {"rounds": 3, "members": 2}], ids=["default", "rounds"])
def test_the_toy_run_reads_a_file_of_its_own(changes: dict[str, Any], tmp_path: Path) -> None:
    params = {**TINY, "reward": {**TINY["reward"], "shards": 4, **changes}}
    section = {**params["reward"], **toy_inputs(params, tmp_path)}
    config = RewardConfig.model_validate({**section, "problems": TINY["problems"] | {"digits": 1}, "seed": 0})
    for name in ("sft", "reward"):
        (tmp_path / name).mkdir()
    save_model(tmp_path / "sft", writer(), TOKENIZER)
    metrics = run(config, tmp_path, Log())
    assert metrics["steps"] == 2 and metrics["pairs"] + metrics["held_out_pairs"] == 24 and config.batch == 4

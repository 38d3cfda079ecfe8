"""What preference says of itself before it runs."""

from pathlib import Path
from typing import Any

import pytest

from lm.checkpoint import save_model
from tasks.about.sections import Sections
from tasks.core.log import Log
from tasks.preference.contracts import contracts
from tasks.preference.inputs import inputs
from tasks.preference.needs import needs
from tasks.preference.stage import PreferenceConfig, run
from tasks.preference.toy import inputs as toy_inputs
from tests.preference.made import TOKENIZER, rows, write_rows, writer
from tests.project import TINY


def sections(**changes: Any) -> Sections:
    return Sections({**TINY, "preference": {**TINY["preference"], **changes}})


def test_what_holds_is_not_spoken_of() -> None:
    assert list(contracts(sections())) == list(inputs(sections())) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"batch": 3, "shards": 2},
            "params.yaml: preference.batch: 6 rows a step, 2 of which stay together, cannot be divided into 2 shards; change either",
        ),
        (
            {"pairs": [{"name": "self_play", "max_new_tokens": 60}]},
            "params.yaml: preference.pairs: max_new_tokens: no prompt fits the context of 64 less 60: the shortest has about 6 tokens; "
            "lower it, or raise pretrain.model.context",
        ),
    ],
)
def test_what_does_not_hold_is_one_line(changes: dict[str, Any], words: str) -> None:
    assert [str(finding) for finding in contracts(sections(**changes))] == [words]


def test_files_are_looked_at_beforehand(tmp_path: Path) -> None:
    given = {"pairs": [{"name": "files"}], "folder": str(tmp_path)}
    [found] = inputs(sections(**given))
    assert str(found).startswith(f"params.yaml: preference.folder: {tmp_path}: holds no file that fits '*' and ends in")
    write_rows(tmp_path, ["{", *rows(1)], "a.jsonl")
    assert list(inputs(sections(**given))) == []
    write_rows(tmp_path, ["{", '{"prompt": "a"}'], "b.jsonl")
    write_rows(tmp_path, [], "c.jsonl")
    assert [str(found) for found in inputs(sections(**given))] == [
        f"{tmp_path}/b.jsonl: not one usable row among the first 1000 (missing_chosen); mend the file",
        f"{tmp_path}/c.jsonl: not one usable row among the first 1000 (empty); mend the file",
    ]


@pytest.mark.parametrize(
    ("pairs", "longest"),
    [
        ([{"name": "mined", "max_new_tokens": 20}], 26),
        ([{"name": "mined", "max_new_tokens": 20}, {"name": "files"}], 64),
    ],
)
def test_its_step_is_forecast_with_the_longest_pairs(pairs: list[dict[str, Any]], longest: int) -> None:
    work = needs(sections(pairs=pairs, batch=3, steps=5)).work
    assert work and work.tokens == 5 * 6 * longest
    batch = work.step().batch
    assert (batch.rows, batch.length, batch.together) == (6, longest - 1, 2)
    share, _ = batch.loss(slice(2, 4))
    share.backward()
    assert share.item() > 0


def test_the_toy_run_reads_a_file_of_its_own(tmp_path: Path) -> None:
    params = {**TINY, "preference": {**TINY["preference"], "shards": 4}}
    section = {**params["preference"], **toy_inputs(params, tmp_path)}
    config = PreferenceConfig.model_validate({**section, "problems": TINY["problems"] | {"digits": 1}, "seed": 0})
    for name in ("sft", "preference"):
        (tmp_path / name).mkdir()
    save_model(tmp_path / "sft", writer(), TOKENIZER)
    metrics = run(config, tmp_path, Log())
    assert metrics["steps"] == 2 and metrics["pairs"] + metrics["held_out_pairs"] == 24 and config.batch == 4

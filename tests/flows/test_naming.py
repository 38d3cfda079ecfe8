"""What runs are called: a preset and what differs, however they were started."""

import pytest

from flows.params.compose import compose
from flows.pipeline.naming import run_name, shorten_key
from tests.project import ROOT


@pytest.mark.parametrize(
    ("preset", "overrides", "name"),
    [
        ("laptop", [], "laptop"),
        ("smoke", [], "smoke"),
        ("laptop", ["quantize.method.group=32"], "laptop quantize.group=32"),
        ("smoke", ["seed=3", "rl.steps=5"], "smoke seed=3 rl.steps=5"),
        ("laptop", ["rl.advantage={name: remax}"], "laptop rl.advantage=remax"),
        (
            "laptop",
            ["pretrain.optimizer.lr=0.1", "pretrain.optimizer.adamw_lr=0.2"],
            "laptop pretrain.lr=0.1 pretrain.adamw_lr=0.2",
        ),
        (
            "laptop",
            ["sft.steps=1", "rl.steps=2", "distill.steps=3", "seed=4"],
            "laptop seed=4 sft.steps=1 rl.steps=2 and 1 more",
        ),
    ],
)
def test_a_run_is_called_by_the_nearest_preset_and_what_differs(preset: str, overrides: list[str], name: str) -> None:
    params = compose(ROOT, preset, overrides)
    assert run_name(ROOT, params) == (preset, name) == run_name(ROOT, params, preset)


def test_a_short_key_means_one_parameter() -> None:
    keys = ["dedup.near.size", "dedup.substring.size", "quantize.method.group"]
    assert [shorten_key(key, keys) for key in keys] == ["dedup.near.size", "dedup.substring.size", "quantize.group"]

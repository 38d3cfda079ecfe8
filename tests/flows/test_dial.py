"""Presets of one number: rules by hand, that they compose and hold together, and what is never overwritten."""

import json
import math
import os
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.cli.preset import write_preset
from flows.params.compose import check, compose
from flows.params.dial import settings_for_depth, text_of, weights_of
from flows.preflight.contracts import check_edges
from lm.config import ConfigError
from lm.linears.base import roles_of
from lm.model import Decoder, ModelConfig
from tasks.core.yaml import parse_yaml
from tests.forks.process import PLAIN, run_forked
from tests.project import ROOT

DEPTHS = (2, 4, 8, 12, 20)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    return tmp_path


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_forked("flows.cli.preset", list(words), root, {**os.environ, "PYTHONPATH": str(ROOT)}, PLAIN)


@pytest.mark.parametrize("depth", DEPTHS)
def test_it_composes_and_nothing_in_it_is_at_odds(depth: int, root: Path) -> None:
    dial = settings_for_depth(depth)
    write_preset(root, dial, "mine", f"DEPTH={depth}")
    params = compose(root, "mine", [])
    check(root, params)
    stages = ("ingest", "tokenize", "curriculum", "pretrain", "sft", "rl", "distill", "quantize", "evaluate")
    assert check_edges(params, stages) == []
    model = params["pretrain"]["model"]
    assert (model["width"], model["layers"]) == (64 * depth, depth) == (dial.width, dial.depth)
    assert params["curriculum"]["tokens"] % params["curriculum"]["tokens_per_step"] == 0
    assert params["curriculum"]["tokens_per_step"] % (8 * model["context"]) == 0  # eight ranks


def test_a_depth_of_twelve_has_the_rates_and_the_shape_of_its_reference(root: Path) -> None:
    write_preset(root, settings_for_depth(12), "mine", "DEPTH=12")
    mine, reference = compose(root, "mine", []), compose(root, "gpu-124m", [])
    assert mine["pretrain"]["model"] == reference["pretrain"]["model"]
    assert mine["pretrain"]["optimizer"] == reference["pretrain"]["optimizer"]
    assert mine["curriculum"]["tokens_per_step"] == reference["curriculum"]["tokens_per_step"] == 2**19
    for stage in ("sft", "rl", "distill"):
        assert mine[stage]["optimizer"] == reference[stage]["optimizer"]


def test_rules_by_hand() -> None:
    """Depth 4: 256 wide, layers of 4 x 256^2 + 3 x 256 x 768 and a head of 2048 x 256. 20 tokens for each are 0.0357 of those
    of depth 12, to the power of 0.383 0.279: 2^19 x 0.279 = 2^17.2. Rates: sqrt(768 / 256) sqrt(1 / 4) = 0.866 of its own."""
    dial = settings_for_depth(4)
    assert dial.weights == 4 * (4 * 256**2 + 3 * 256 * 768) + 2048 * 256 == 3932160
    assert (dial.heads, dial.ffn_width, dial.tokens_per_step) == (4, 768, 2**17)
    assert dial.lr == pytest.approx(0.866 * 0.0018, rel=1e-3) and dial.adamw_lr == pytest.approx(2 * dial.lr)
    kept = [d.lr * d.weight_decay * d.steps for d in (dial, settings_for_depth(12))]
    assert kept[0] == pytest.approx(kept[1], rel=0.01)


@pytest.mark.parametrize("depth", DEPTHS)
def test_weights_are_those_of_the_model(depth: int) -> None:
    dial = settings_for_depth(depth)
    shape = ModelConfig(
        vocab_size=dial.vocab_size, width=dial.width, layers=depth, heads=dial.heads, kv_heads=dial.heads,
        ffn_width=dial.ffn_width, context=dial.context,
    )  # fmt: skip
    with torch.device("meta"):
        model = Decoder(shape)
    roles = roles_of(model)
    assert dial.weights == sum(w.numel() for name, w in model.named_parameters() if roles[name] != "vector")


def test_a_deeper_model_has_more_of_everything() -> None:
    dials = [settings_for_depth(depth) for depth in range(2, 41)]
    for shallow, deep in zip(dials, dials[1:], strict=False):
        assert deep.weights > shallow.weights and deep.width > shallow.width and deep.tokens > shallow.tokens
        assert deep.tokens_per_step >= shallow.tokens_per_step


def test_a_ladder_of_four_depths_goes_by_the_rules_of_the_page() -> None:
    """Each figure anew from docs/training.md; rates go by root of batch over root of width, which is no falling row, and the
    decay falls."""
    rungs = [settings_for_depth(depth) for depth in (4, 8, 12, 20)]
    assert [rung.heads for rung in rungs] == [4, 4, 6, 10]
    assert [rung.tokens_per_step for rung in rungs] == [2**17, 2**18, 2**19, 2**20]
    reference = rungs[2]
    for rung in rungs:
        assert rung.width == 64 * rung.depth and 0 <= 20 * rung.weights - rung.tokens < rung.tokens_per_step
        batches = (rung.tokens / reference.tokens) ** 0.383 * 2**19
        assert abs(math.log2(rung.tokens_per_step / batches)) <= 0.51
        rate = math.sqrt(rung.tokens_per_step / 2**19 * 768 / rung.width)
        assert rung.lr == pytest.approx(0.0018 * rate, rel=5e-3) and rung.adamw_lr == pytest.approx(
            2 * rung.lr, rel=5e-3
        )
        kept = rung.tokens_per_step / (rung.lr * rung.weight_decay * rung.tokens)
        assert kept == pytest.approx(reference.tokens_per_step / (0.0018 * 0.1 * reference.tokens), rel=0.01)
    for lower, upper in pairwise(rungs):
        for name in ("width", "ffn_width", "weights", "tokens", "tokens_per_step", "steps"):
            assert getattr(upper, name) > getattr(lower, name)
        assert upper.heads >= lower.heads and upper.lr >= lower.lr and upper.weight_decay < lower.weight_decay


@settings(deadline=None)
@given(st.integers(2, 64), st.none() | st.integers(204_800, 10**12))
def test_any_depth_and_horizon_makes_whole_steps_and_heads(depth: int, tokens: int | None) -> None:
    dial = settings_for_depth(depth, tokens)
    assert dial.tokens <= (tokens or 20 * weights_of(depth)) and dial.tokens % dial.tokens_per_step == 0
    assert dial.steps >= 200 and math.log2(dial.tokens_per_step).is_integer() and dial.tokens_per_step >= dial.context
    assert dial.width % dial.heads == 0 and dial.width // dial.heads in (64, 128)
    assert parse_yaml(text_of(dial, "mine", ""))["pretrain"]["optimizer"]["lr"] == dial.lr


@pytest.mark.parametrize("depth", range(2, 65))
def test_heads_are_as_the_comment_and_the_page_say(depth: int) -> None:
    """Depth 13 is 832 wide, in which no whole number of heads of 128 goes."""
    dial = settings_for_depth(depth)
    narrow = dial.width // 128 < 4 or dial.width % 128 != 0
    assert dial.heads == dial.width // (64 if narrow else 128)
    assert "heads of 128, or of 64 where those were fewer than 4 or do not divide the width;" in text_of(
        dial, "mine", ""
    )
    page = (ROOT / "docs/training.md").read_text()
    assert "heads of 128, or of 64 where those were fewer than four or do not divide the width |" in page


@pytest.mark.parametrize(
    ("depth", "tokens", "said"),
    [
        (1, None, "DEPTH: 1 is not from 2 to 64"),
        (65, None, "DEPTH: 65"),
        (2, 1000, "TOKENS: 1000 are less than 200 steps"),
    ],
)
def test_what_no_model_is_made_of_is_refused_in_a_line(depth: int, tokens: int | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings_for_depth(depth, tokens)


def test_a_second_time_is_the_same_file_and_another_is_not_overwritten(root: Path) -> None:
    path, new = write_preset(root, settings_for_depth(4), "d4", "DEPTH=4")
    first = path.read_bytes()
    assert (
        new
        and write_preset(root, settings_for_depth(4), "d4", "DEPTH=4") == (path, False)
        and path.read_bytes() == first
    )
    with pytest.raises(ConfigError, match=r"presets/d4\.yaml is there and says otherwise: give another NAME"):
        write_preset(root, settings_for_depth(8), "d4", "DEPTH=8")
    assert path.read_bytes() == first
    with pytest.raises(ConfigError, match="presets/laptop.yaml is there"):
        write_preset(root, settings_for_depth(4), "laptop", "DEPTH=4")
    with pytest.raises(ConfigError, match="NAME: '../d4': small letters"):
        write_preset(root, settings_for_depth(4), "../d4", "DEPTH=4")


def test_the_command(root: Path) -> None:
    done = run(root, "--depth", "8", "--tokens", "2e8", "--name", "eight", "--json")
    said = json.loads(done.stdout)
    assert said["preset"] == "eight" and said["written"] and said["steps"] * said["tokens_per_step"] == said["tokens"]
    assert "make preset DEPTH=8 TOKENS=200000000" in (root / "presets/eight.yaml").read_text()
    again = run(root, "--depth", "8", "--tokens", "2e8", "--name", "eight")
    assert again.returncode == 0 and "presets/eight.yaml: says this already" in again.stdout
    other = run(root, "--depth", "9", "--name", "eight")
    assert other.returncode == 2 and other.stderr.count("\n") == 1 and "says otherwise" in other.stderr
    assert run(root, "--depth", "deep").returncode == run(root, "--depth", "8", "--tokens", "1.5").returncode == 2

"""The stage over a packed plan: parts of a batch, documents, samples of text, and bits per byte."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lm.checkpoint import load_model
from tasks.core.config import ConfigError, load
from tasks.pretrain.stage import PretrainConfig
from tests.processes import wait_for
from tests.project import TINY, digest, run_stage, start_stage
from tests.tiny import Tiny

STEPS = 32


def pretrain(tiny: Tiny, folder: Path, changes: dict, **environment: str) -> Path:
    """data/pretrain of a project whose section has these changes."""
    project = tiny.project(folder, "curriculum", {**TINY, "pretrain": {**TINY["pretrain"], **changes}})
    run_stage(project, "pretrain", **environment)
    return project / "data" / "pretrain"


def curve(folder: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (folder / "curves.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("within_documents", [False, True])
def test_parts_of_a_packed_batch_train_as_the_whole(tiny: Tiny, tmp_path: Path, within_documents: bool) -> None:
    changes = {"within_documents": within_documents, "optimizer": {"name": "adamw"}}
    whole = pretrain(tiny, tmp_path / "whole", changes)
    parts = pretrain(tiny, tmp_path / "parts", changes, TOKENMILL_POSITIONS="80")  # two rows of 32, and a bit
    # 32 steps of fp32, whose gradients are summed in another order
    assert curve(parts, "loss") == pytest.approx(curve(whole, "loss"), rel=1e-3)


def test_documents_before_are_not_seen(tiny: Tiny, tmp_path: Path) -> None:
    alone, together = (
        curve(pretrain(tiny, tmp_path / str(within), {"within_documents": within}), "loss") for within in (True, False)
    )
    assert alone[0] == pytest.approx(together[0], rel=1e-2)  # random weights, nearly uniform either way
    assert alone != together


def test_samples_and_bits_per_byte_are_told(tiny: Tiny, tmp_path: Path) -> None:
    folder = pretrain(tiny, tmp_path / "project", {"samples_every": 10})
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [10, 20, 30] and len(curve(folder, "loss")) == STEPS
    assert all(len(sample["texts"]) == 3 and all(sample["texts"]) for sample in samples)
    # a token is a byte, and every document of n bytes has an end token: n + 1 tokens
    told = zip(curve(folder, "bits_per_byte"), curve(folder, "loss"), strict=True)
    ratio = [bits * math.log(2) / loss for bits, loss in told]
    assert min(ratio) == pytest.approx(max(ratio)) and 1.0 < ratio[0] < 1.05
    plain = pretrain(tiny, tmp_path / "plain", {})
    assert not (plain / "samples.jsonl").exists()
    assert (plain / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_further_heads_and_embeddings_are_trained_and_only_the_model_is_saved(tiny: Tiny, tmp_path: Path) -> None:
    model = {
        **TINY["pretrain"]["model"],
        "embeddings": [{"name": "smear"}, {"name": "bigram", "rows": 50}, {"name": "value"}],
    }
    plain = pretrain(tiny, tmp_path / "plain", {"model": model})
    changes = {"model": model, "objective": {"name": "multi_token", "heads": 2}, "samples_every": 20}
    folder = pretrain(tiny, tmp_path / "heads", {**changes, "within_documents": True})
    (saved, _), (other, _) = load_model(folder), load_model(plain)
    assert saved.config == other.config and saved.num_parameters() == other.num_parameters()
    assert not torch.equal(saved.embedding.weight, other.embedding.weight)
    assert saved.of_input[0].share.item() != 0 and saved.blocks[0].embeddings[0].shares.tolist() != [0.5, 0.5]
    # the loss is the next token's and that of two heads, each in nats a prediction
    losses, next_token, ahead = (curve(folder, name) for name in ("loss", "cross_entropy", "cross_entropy_ahead"))
    for loss, one, other_two in zip(losses, next_token, ahead, strict=True):
        assert loss == pytest.approx(one + 2 * other_two, rel=1e-4)
    assert next_token[-1] < next_token[0] and ahead[-1] < ahead[0]


def test_a_batch_that_grows_is_of_the_same_tokens_and_goes_on_to_the_bit(tiny: Tiny, tmp_path: Path) -> None:
    """8 sequences a step: 8 steps of a quarter in the place of the first, 4 halves, and so on; killed among the halves."""
    ramp = {"doublings": 2, "share": 0.25}
    params = {**TINY, "curriculum": {**TINY["curriculum"], "ramp": ramp}, "pretrain": {**TINY["pretrain"], "shards": 2}}
    project = tiny.project(tmp_path / "ramp", "tokenize", params)
    run_stage(project, "curriculum")
    process = start_stage(project, "pretrain", TOKENMILL_CHECKPOINT_SECONDS="0")
    written = (project / ".scratch" / "pretrain").rglob
    wait_for(lambda: any(int(path.stem[5:]) >= 18 for path in written("step-*.safetensors")), process)
    process.kill()
    process.communicate()
    run_stage(project, "pretrain", TOKENMILL_RANKS="2")
    folder = project / "data" / "pretrain"
    found = digest(folder)
    losses = np.load(folder / "sequence_losses.npy")
    assert len(curve(folder, "loss")) == 4 * 4 + 4 * 2 + 24
    shutil.rmtree(folder)
    run_stage(project, "pretrain")
    assert digest(folder) == found
    # the first two sequences are the same text at the same weights as without a ramp, the others are at weights that moved
    whole = np.load(pretrain(tiny, tmp_path / "whole", {"shards": 2}) / "sequence_losses.npy")
    assert len(losses) == len(whole) == 32 * 8 and np.isfinite(losses).all()
    assert losses[:2] == pytest.approx(whole[:2], rel=2e-3) and losses[-8:].mean() != whole[-8:].mean()


MASKED = {"model": {**TINY["pretrain"]["model"], "causal": False}, "objective": {"name": "masked_diffusion"}}


def test_masked_diffusion_is_trained_and_saved_as_what_it_is_and_samples_are_unmasked(
    tiny: Tiny, tmp_path: Path
) -> None:
    folder = pretrain(tiny, tmp_path / "whole", {**MASKED, "within_documents": True, "samples_every": 20})
    with pytest.raises(ConfigError, match="not causal"):
        load_model(folder)
    saved, tokenizer = load_model(folder, masked=True)
    assert not saved.config.causal and saved.config.vocab_size == tokenizer.vocab_size + 1
    (sample,) = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(sample["texts"]) == 3 and all(sample["texts"].values())
    losses, ratios = curve(folder, "loss"), curve(folder, "mask_ratio")
    assert losses == pytest.approx(curve(folder, "cross_entropy")) and losses[-1] < losses[0] - 0.5
    assert 0.3 < sum(ratios) / STEPS < 0.7
    told = zip(curve(folder, "bits_per_byte"), losses, strict=True)
    assert all(1.0 < bits * math.log(2) / loss < 1.05 for bits, loss in told)
    # the same draws in parts and for ranks' shares, summed in another order
    parts = pretrain(tiny, tmp_path / "parts", {**MASKED, "within_documents": True}, TOKENMILL_POSITIONS="80")
    assert curve(parts, "loss")[:8] == pytest.approx(losses[:8], rel=1e-3)
    assert curve(parts, "mask_ratio") == pytest.approx(ratios)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": {"name": "masked_diffusion"}}, "objective: masked_diffusion trains a model of pretrain.model.causal false"),
        ({"model": MASKED["model"]}, "objective: next_token trains a model of pretrain.model.causal true"),
        ({**MASKED, "start": {"name": "stacked"}}, "start: masked_diffusion trains from random weights alone"),
        ({"model": {**MASKED["model"], "mixer": {"name": "hyena"}}, "objective": MASKED["objective"]}, "layer 0 has hyena"),
    ],
)  # fmt: skip
def test_objectives_and_models_that_do_not_go_together_are_refused_in_one_line(changes: dict, words: str) -> None:
    section = {**TINY["pretrain"], **changes, "checkpoint": TINY["checkpoint"], "seed": 0}
    with pytest.raises(ConfigError) as refused:
        load("pretrain", PretrainConfig, {"pretrain": section})
    assert words in str(refused.value) and "\n" not in str(refused.value)

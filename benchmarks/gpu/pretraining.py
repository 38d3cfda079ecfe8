"""The pretraining step of gpu-124m: the stage itself, as the preset has it, and as the peers train."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.check import Check
from benchmarks.gpu.corpus import prepare
from benchmarks.gpu.watch import Watch
from lm.averages import Last
from lm.model import Decoder, ModelConfig
from lm.optimizers import AdamW, Muon
from lm.schedules import Wsd
from lm.training.flops import flops_per_token
from tasks.core.config import Checkpoint
from tasks.core.process import use_threads
from tasks.pretrain import stage
from tasks.pretrain.objectives import NextToken
from tasks.pretrain.starts import Random

RATE = 6e-4
CONSTANT: dict[str, Any] = {"schedule": Wsd(warmup_fraction=0.0, decay_fraction=0.0), "average": Last(), "clip": 1.0}


def vocab_size(check: Check) -> int:
    return 512 if check.tiny else 32768


def shape(check: Check, **more: Any) -> ModelConfig:
    """Shape of the model of presets/gpu-124m.yaml."""
    sizes: dict[str, Any] = {"width": 768, "layers": 12, "heads": 6, "kv_heads": 6, "ffn_width": 2048, "context": 1024}
    if check.tiny:
        sizes = {"width": 64, "layers": 2, "heads": 2, "kv_heads": 2, "ffn_width": 128, "context": 32}
    return ModelConfig(vocab_size=vocab_size(check), **sizes, **more)


def sequences(check: Check) -> int:
    """Sequences of a step."""
    return 8 if check.tiny else 512


def flops(model: ModelConfig) -> float:
    """FLOP of a token of training."""
    with torch.device("meta"):
        return flops_per_token(Decoder(model), model.context)


def step_preset(check: Check) -> None:
    """Muon and QK-norm, compiled."""
    train(check, 12, look=True, **preset(check))


def step_eager(check: Check) -> None:
    """Muon and QK-norm, uncompiled."""
    train(check, 8, look=True, **preset(check) | {"compile": "off"})


def step_documents(check: Check) -> None:
    """Muon and QK-norm, compiled, with attention within documents."""
    train(check, 9, **preset(check), within_documents=True)


def step_same(check: Check) -> None:
    """The model and the optimizer that the peers have: without QK-norm, AdamW."""
    train(check, 9, **of_peers(check))


def step_fast(check: Check) -> None:
    """The model and the optimizer that the peers have, in whichever order is fastest, as they train."""
    train(check, 9, **of_peers(check), deterministic=False)


def of_peers(check: Check) -> dict[str, Any]:
    """Recipe of the model and the optimizer that the peers have."""
    return {
        "model": shape(check, qk_norm=False), "objective": NextToken(), "compile": compiled(check),
        "optimizer": AdamW(lr=RATE, weight_decay=0.0),
    }  # fmt: skip


def preset(check: Check) -> dict[str, Any]:
    """What presets/gpu-124m.yaml says of pretraining, at a constant rate."""
    return {
        "model": shape(check, qk_norm=True), "objective": NextToken(z_loss=1e-5), "compile": compiled(check),
        "optimizer": Muon(lr=RATE, adamw_lr=RATE, weight_decay=0.1), "shards": 8,
    }  # fmt: skip


def compiled(check: Check) -> str:
    """Whether to compile: not on a CPU, where it takes longer than all else of an item."""
    return "off" if check.tiny else "on"


def train(check: Check, steps: int, look: bool = False, **recipe: Any) -> None:
    """Run the stage for so many steps and say what was seen, also where it ends early."""
    use_threads(recipe.get("deterministic", True))
    steps = 5 if check.tiny else steps
    with tempfile.TemporaryDirectory() as name:
        config = stage.PretrainConfig(start=Random(), checkpoint=Checkpoint(folder=name), seed=0, **CONSTANT, **recipe)
        model = config.model
        prepare(Path(name), model.vocab_size, steps, sequences(check), model.context)
        log = Watch(check, steps, sequences(check) * model.context, flops(model), look)
        stage.run(config, Path(name), log)
    log.finish()

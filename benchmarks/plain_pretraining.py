"""A peer of pretraining: nanoGPT's way to train the decoder of benchmarks/plain.py on a stream of tokens.

Windows at random places of the training documents end to end; torch's fused AdamW, matrices decayed by 0.1; gradients clipped
at norm 1; warm-up, then half a cosine down to a share of the rate. A first pass, which compiles where that is asked for, is
outside of the time. Letters: B batch, N tokens of a window.
"""

import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.plain import Llama
from benchmarks.prose import bits_per_byte
from lm.model import Decoder, ModelConfig
from tasks.core.tables import read_table

# of a block of the plain decoder, and what the same weight is called in ours
NAMES = {
    "norm_1": "attention_norm", "out": "attention.output", "norm_2": "ffn_norm", "gate": "ffn.gate", "up": "ffn.up",
    "down": "ffn.down",
}  # fmt: skip


def factor(step: int, steps: int, final: float = 0.1, warmup_fraction: float = 0.05) -> float:
    """Factor of the rate: up to 1 by equal parts, then half a cosine down to `final`."""
    warmup = int(warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return final + (1 - final) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def windows(stream: np.ndarray, rows: int, length: int, generator: torch.Generator) -> Tensor:
    """ids_BN of `rows` windows of length + 1 tokens, each at a place of its own."""
    places = torch.randint(len(stream) - length, (rows,), generator=generator).tolist()
    return torch.from_numpy(np.stack([stream[at : at + length + 1] for at in places]).astype(np.int64))


def training_stream(folder: Path) -> np.ndarray:
    """The tokens of the training documents, in their order."""
    documents = read_table(folder / "documents.parquet", ["split", "length"])
    split, length = (column.to_numpy() for column in documents.columns)
    return np.load(folder / "tokens.npy")[np.repeat(split == "train", length)]


def plain_of(decoder: Decoder) -> Llama:
    """The plain decoder with the weights of ours, which has neither QK-norm nor fewer heads for keys."""
    config = decoder.config
    model = Llama(
        {
            "hidden_size": config.width, "num_attention_heads": config.heads, "rms_norm_eps": config.norm_eps,
            "vocab_size": config.vocab_size, "intermediate_size": config.ffn_width, "rope_theta": config.rope_theta,
            "num_hidden_layers": config.layers, "max_position_embeddings": config.context,
        }
    )  # fmt: skip
    ours = decoder.state_dict()
    state = {name: ours[name] for name in ("embedding.weight", "norm.weight")}
    for block in (f"blocks.{number}" for number in range(config.layers)):
        parts = [ours[f"{block}.attention.{part}.weight"] for part in ("query", "key", "value")]
        state[f"{block}.qkv.weight"] = torch.cat(parts)
        state |= {f"{block}.{name}.weight": ours[f"{block}.{other}.weight"] for name, other in NAMES.items()}
    model.load_state_dict(state)
    return model


def put_back(model: Llama, decoder: Decoder) -> None:
    """Copy the weights of the plain decoder into ours."""
    plain = model.state_dict()
    state = {name: plain[name] for name in ("embedding.weight", "norm.weight")}
    for block in (f"blocks.{number}" for number in range(decoder.config.layers)):
        for part, weight in zip(("query", "key", "value"), plain[f"{block}.qkv.weight"].chunk(3), strict=True):
            state[f"{block}.attention.{part}.weight"] = weight
        state |= {f"{block}.{other}.weight": plain[f"{block}.{name}.weight"] for name, other in NAMES.items()}
    decoder.load_state_dict(state)


def pretrain(
    folder: str,
    shape: dict[str, Any],
    seed: int,
    tokens: int,
    batch: int,
    rate: float,
    length: int,
    final: float,
    beta2: float,
    compiled: bool = True,
) -> tuple[dict[str, float], str]:
    """The arm: a run from the weights that ours has at this seed. (values, the digest of the held-out documents).

    time: seconds of training alone, with neither imports, compiling nor evaluation in them.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(
        Path(folder) / "inductor"
    )  # what the first run compiles the others read
    decoder = Decoder(ModelConfig(**shape), seed)
    model, stream = plain_of(decoder), training_stream(Path(folder) / "tokenize")
    decayed = [weight for weight in model.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if weight.ndim != 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, beta2), fused=True)
    loss_of = torch.compile(model) if compiled else model
    generator = torch.Generator().manual_seed(seed)
    rows, steps = batch // length, tokens // batch

    def gradients(ids_BN: Tensor) -> None:
        loss_of(ids_BN[:, :-1].contiguous(), ids_BN[:, 1:].contiguous()).backward()

    gradients(windows(stream, rows, length, torch.Generator()))  # compiles
    optimizer.zero_grad(set_to_none=True)
    began = time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * factor(step, steps, final)
        gradients(windows(stream, rows, length, generator))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - began
    put_back(model, decoder)
    bits, documents = bits_per_byte(decoder.eval(), Path(folder))
    return {
        "time": seconds,
        "tokens": steps * batch,
        "bits_per_byte": bits,
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }, documents

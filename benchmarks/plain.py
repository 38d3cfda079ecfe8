"""A peer of the pretraining step: a decoder of Llama's shape and its loop as nanoGPT writes them, eager or compiled.

As in nanoGPT one product gives query, key and value, the head's weight is the embedding's, all logits are in memory, and
torch.compile takes the model with its loss. Letters: B batch, T time, D width, H heads, E head width.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.steps import Steps
from benchmarks.turns import Turns


class Block(nn.Module):
    def __init__(self, width: int, heads: int, ffn_width: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, ffn_width, bias=False) for _ in range(2))
        self.down = nn.Linear(ffn_width, width, bias=False)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        qkv = self.qkv(self.norm_1(x_BTD)).view(B, T, 3, self.heads, D // self.heads)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        q, k = rotated(q, cos_TE, sin_TE), rotated(k, cos_TE, sin_TE)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.out(mixed.transpose(1, 2).reshape(B, T, D))
        y = self.norm_2(x_BTD)
        return x_BTD + self.down(F.silu(self.gate(y)) * self.up(y))


def rotated(x_BHTE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    a, b = x_BHTE.chunk(2, dim=-1)
    return x_BHTE * cos_TE + torch.cat((-b, a), dim=-1) * sin_TE


class Llama(nn.Module):
    """Decoder of the shape that a Hugging Face config.json describes."""

    cos_TE: Tensor
    sin_TE: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, heads, eps = config["hidden_size"], config["num_attention_heads"], config["rms_norm_eps"]
        self.embedding = nn.Embedding(config["vocab_size"], width)
        blocks = (Block(width, heads, config["intermediate_size"], eps) for _ in range(config["num_hidden_layers"]))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.RMSNorm(width, eps)
        half = width // heads // 2
        frequencies = config["rope_theta"] ** (-torch.arange(half) / half)
        angles = (torch.arange(config["max_position_embeddings"])[:, None] * frequencies).repeat(1, 2)
        self.register_buffer("cos_TE", angles.cos(), persistent=False)
        self.register_buffer("sin_TE", angles.sin(), persistent=False)

    def forward(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The mean loss in nats."""
        T = ids_BT.shape[1]
        x_BTD = self.embedding(ids_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, self.cos_TE[:T], self.sin_TE[:T])
        logits_BTV = F.linear(self.norm(x_BTD), self.embedding.weight)
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def from_theirs(theirs: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The state of a Llama from the tensors of a Hugging Face one."""
    state = {"embedding.weight": theirs["model.embed_tokens.weight"], "norm.weight": theirs["model.norm.weight"]}
    for number in range(layers):
        layer, block = f"model.layers.{number}", f"blocks.{number}"
        query, key, value = (theirs[f"{layer}.self_attn.{part}_proj.weight"] for part in "qkv")
        state[f"{block}.qkv.weight"] = torch.cat((query, key, value))
        state[f"{block}.out.weight"] = theirs[f"{layer}.self_attn.o_proj.weight"]
        state[f"{block}.norm_1.weight"] = theirs[f"{layer}.input_layernorm.weight"]
        state[f"{block}.norm_2.weight"] = theirs[f"{layer}.post_attention_layernorm.weight"]
        for part in ("gate", "up", "down"):
            state[f"{block}.{part}.weight"] = theirs[f"{layer}.mlp.{part}_proj.weight"]
    return state


def load(folder: Path) -> Llama:
    """The model of a Hugging Face folder."""
    model = Llama(json.loads((folder / "config.json").read_text()))
    model.load_state_dict(from_theirs(load_file(folder / "model.safetensors"), len(model.blocks)))
    return model


def batches(folder: Path, predictions: int) -> list[Tensor]:
    """ids_BN of every step, for as many predictions: the tokens of the folder in their order."""
    tokens = np.load(folder / "tokenize" / "tokens.npy", mmap_mode="r")
    context = json.loads((folder / "model" / "config.json").read_text())["max_position_embeddings"]
    return list(torch.from_numpy(tokens.astype(np.int64)).view(-1, predictions // context, context + 1))


def train(turns: Turns, folder: str, tokens: int, steps: int, rate: float, compiled: bool) -> None:
    """The arm. Its compiled code is kept with the folder, so that compile_time is that of a first run."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "inductor")
    model = load(Path(folder) / "model")
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    loss_of = torch.compile(model) if compiled else model
    done = Steps(turns, tokens, steps)
    for ids_BN in batches(Path(folder), tokens):
        loss = loss_of(ids_BN[:, :-1].contiguous(), ids_BN[:, 1:].contiguous())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done(loss.item())

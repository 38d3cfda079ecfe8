"""Hugging Face model folders: Llama 2 and 3, Qwen 2 and 3, SmolLM 1 and 2. lm/export.py writes them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lm.hf_config import from_theirs
from lm.model import Decoder

OUTER = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
INNER = {
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "ffn.gate": "mlp.gate_proj",
    "ffn.up": "mlp.up_proj",
    "ffn.down": "mlp.down_proj",
}


def their_name(name: str) -> str:
    """`blocks.3.ffn.up.weight` -> `model.layers.3.mlp.up_proj.weight`."""
    if name in OUTER:
        return OUTER[name]
    _, layer, rest = name.split(".", 2)
    part, kind = rest.rsplit(".", 1)
    return f"model.layers.{layer}.{INNER[part]}.{kind}"


def read_json(path: Path) -> dict[str, Any]:
    """Raises ValueError naming the file when it is missing or not a JSON object."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; is {path.parent} a Hugging Face model folder?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a JSON object")
    return found


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of model.safetensors, or of the shards its index names, in float32. Raises ValueError naming the file."""
    index = folder / "model.safetensors.index.json"
    shards = sorted(set(read_json(index)["weight_map"].values())) if index.exists() else ["model.safetensors"]
    weights: dict[str, Tensor] = {}
    for shard in shards:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):  # somebody else's: it names files beside it
            raise ValueError(f"{index}: weight_map: {shard!r} is no file of this folder")
        try:
            weights |= {name: weight.float() for name, weight in load_file(folder / shard).items()}
        except (FileNotFoundError, SafetensorError) as error:
            raise ValueError(f"{folder / shard}: cannot be read: {error}") from None
    return weights


def load_hf(folder: Path) -> Decoder:
    """The model, in float32 and evaluation mode. Raises ValueError naming the file and what this decoder does not have."""
    try:
        config = from_theirs(read_json(folder / "config.json"))
    except KeyError as error:
        raise ValueError(f"{folder / 'config.json'}: has no {error}") from None
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    weights, model = read_weights(folder), Decoder(config)
    wanted = {their_name(name): name for name in model.state_dict()}
    unknown = sorted(set(weights) - set(wanted) - ({"lm_head.weight"} if config.tied else set()))
    # old files keep the frequencies of the rotation, which follow from the configuration
    unknown = [name for name in unknown if not name.endswith("rotary_emb.inv_freq")]
    missing = sorted(set(wanted) - set(weights))
    if unknown or missing:
        said = [
            f"{kind} {len(names)} weights such as {names[0]}"
            for kind, names in (("misses", missing), ("has unknown", unknown))
            if names
        ]
        raise ValueError(f"{folder}: {' and '.join(said)}")
    try:
        model.load_state_dict({wanted[name]: weights[name] for name in wanted})
    except RuntimeError as error:
        raise ValueError(f"{folder}: does not fit its config.json: {' '.join(str(error).split())}") from None
    return model.eval()


@torch.no_grad()
def grown(model: Decoder, vocab_size: int) -> Decoder:
    """The model with rows for as many tokens, new ones being the mean of the old (Hewitt 2021, "Initializing new word
    embeddings for pretrained language models"); itself when it has enough."""
    if vocab_size <= model.config.vocab_size:
        return model
    larger = Decoder(model.config.model_copy(update={"vocab_size": vocab_size}))
    state = model.state_dict()
    for name in {"embedding.weight", "head.weight"} & set(state):
        rows = state[name]
        state[name] = torch.cat((rows, rows.mean(0, keepdim=True).expand(vocab_size - len(rows), -1)))
    larger.load_state_dict(state)
    return larger.eval()

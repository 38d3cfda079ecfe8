"""Hugging Face model folders: Llama 2 and 3, Qwen 2 and 3, SmolLM 1 and 2; of experts Mixtral, Qwen2-MoE and Qwen3-MoE.
lm/hugging_face/export.py writes them."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lm.feed_forwards.experts import Experts
from lm.hugging_face.config import from_theirs
from lm.hugging_face.folder import advice
from lm.model import Decoder, ModelConfig

OUTER = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
# Mixtral's names where Qwen's experts have others
MIXTRAL = {".mlp.": ".block_sparse_moe.", "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
NORMS = {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


def their_name(name: str, config: ModelConfig) -> str:
    """`blocks.3.ffn.up.weight` -> `model.layers.3.mlp.up_proj.weight`. Raises ValueError where the part that has the weight has
    no name there."""
    if name in OUTER:
        return OUTER[name]
    _, index, rest = name.split(".", 2)
    inside, kind = rest.rsplit(".", 1)
    if inside not in NORMS:
        slot, _, module = inside.partition(".")
        layer = config.layer(int(index))
        part = layer.mixer if slot == "attention" else layer.feed_forward
        if module not in part.hugging_face:
            raise ValueError(f"{name}: Hugging Face has no name for it")
        named = f"model.layers.{index}.{part.hugging_face[module]}.{kind}"
        if isinstance(part, Experts) and part.family(config) == "mixtral":
            for qwens, own in MIXTRAL.items():
                named = named.replace(qwens, own)
        return named
    return f"model.layers.{index}.{NORMS[inside]}.{kind}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, with or without a byte order mark. Raises ValueError naming the file when it is missing, with what lies
    there instead, or no such object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; {advice(path.parent)}") from None
    except (ValueError, OSError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are among them
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a JSON object")
    return found


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor, in float32. Raises ValueError naming the file, and the tensor that holds what no weight is."""
    weights: dict[str, Tensor] = {}
    for shard in files_of(folder):
        path = folder / shard
        try:
            weights |= {name: _weight(path, name, weight) for name, weight in load_file(path).items()}
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file, and its index names it: download it again") from None
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: cannot be read: {error}; {_instead(path)}") from None
    return weights


def _weight(path: Path, name: str, stored: Tensor) -> Tensor:
    if not stored.is_floating_point():
        kind = str(stored.dtype).removeprefix("torch.")
        raise ValueError(
            f"{path}: {name} is {kind}, and weights are floating-point numbers: take the model unquantized"
        )
    weight = stored.float()
    if not is_finite(weight):
        raise ValueError(
            f"{path}: {name} has entries that are NaN or infinite in float32: download it again, or take another"
        )
    return weight


def is_finite(weight: Tensor) -> bool:
    """Whether no entry is NaN or infinite: by the smallest and the largest, which take no memory and are NaN beside one."""
    return not weight.numel() or all(map(math.isfinite, torch.stack(weight.aminmax()).tolist()))


def files_of(folder: Path) -> list[str]:
    """The files of the weights: model.safetensors where there is one, else those that its index names, as transformers has it.
    Raises ValueError for an index that is broken, or where there is neither, with what lies there instead."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single.name]
    if not index.exists():
        pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
        if pickled:
            raise ValueError(
                f"{folder}: has {pickled[0]} and no safetensors; pickles are not read: save it again with transformers, "
                f"AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
            )
        raise ValueError(f"{single}: no such file; {advice(folder)}")
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()) or not places:
        raise ValueError(f"{index}: has no weight_map of files by tensor: download it again")
    found = sorted(set(places.values()))
    for shard in found:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):  # somebody else's: it names files beside it
            raise ValueError(f"{index}: weight_map: {shard!r} is no file of this folder")
    return found


def _instead(path: Path) -> str:
    """What to do about a safetensors file that is none."""
    with path.open("rb") as file:
        pointer = file.read(24) == b"version https://git-lfs."
    return "it is a pointer of Git LFS: `git lfs pull`" if pointer else "download it again"


def config_of(folder: Path) -> ModelConfig:
    """The shape in config.json. Raises ValueError naming the file and the key that is missing or asks for what there is not."""
    path = folder / "config.json"
    theirs = read_json(path)
    if "model_type" not in theirs and "contract" in theirs:
        raise ValueError(
            f"{path}: a model of this project, not of Hugging Face: `make export MODEL={folder} TO=exported` writes one"
        )
    try:
        return from_theirs(theirs)
    except KeyError as error:
        raise ValueError(f"{path}: has no {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def untie(config: ModelConfig, weights: dict[str, Tensor], folder: Path) -> ModelConfig:
    """The configuration that fits the head in the files, as transformers 5 has it: where config.json says that the head is
    the embedding, one of both is enough, two that are equal are one, and two that differ are two, which is said."""
    embedding, head = OUTER["embedding.weight"], OUTER["head.weight"]
    if not config.tied or head not in weights:
        return config
    if embedding not in weights or torch.equal(weights[embedding], weights[head]):
        weights[embedding] = weights.pop(head)
        return config
    print(
        f"{folder}: config.json says tie_word_embeddings, and the files have another {head}, which is used",
        file=sys.stderr,
    )
    return config.model_copy(update={"tied": False})


def load_hf(folder: Path) -> Decoder:
    """The model, in float32 and evaluation mode. Raises ValueError naming the file and what this decoder does not have."""
    config, weights = config_of(folder), read_weights(folder)
    config = untie(config, weights, folder)
    with torch.device("meta"):  # until its shapes are known to be those of the files, it takes no memory
        state = Decoder(config).state_dict()
    wanted = {their_name(name, config): name for name in state}
    # old files keep the frequencies of the rotation, which follow from the configuration
    unknown = sorted(name for name in set(weights) - set(wanted) if not name.endswith("rotary_emb.inv_freq"))
    missing = sorted(set(wanted) - set(weights))
    if unknown or missing:
        said = [
            f"{kind} {len(names)} weights such as {names[0]}"
            for kind, names in (("misses", missing), ("has unknown", unknown))
            if names
        ]
        raise ValueError(f"{folder}: {' and '.join(said)}")
    for name, ours in wanted.items():
        if weights[name].shape != state[ours].shape:
            there, here = tuple(weights[name].shape), tuple(state[ours].shape)
            raise ValueError(f"{folder}: does not fit its config.json: {name} is {there}, and by config.json {here}")
    model = Decoder(config)
    model.load_state_dict({ours: weights[name] for name, ours in wanted.items()})
    return model.eval()


@torch.no_grad()
def resize_token_embeddings(model: Decoder, vocab_size: int) -> Decoder:
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

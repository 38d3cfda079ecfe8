"""A model in the format of Hugging Face: `make export MODEL=data/rl TO=folder`; or as GGUF, where TO ends in .gguf.

AutoModelForCausalLM and AutoTokenizer open such a folder, llama.cpp and Ollama such a file (lm/gguf/export.py). Beside either
lies made_of.json, which says which weights it was made of (lm/hugging_face/provenance.py).
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lm.files import write_json
from lm.hugging_face.config import to_theirs
from lm.hugging_face.load import is_finite, their_name
from lm.hugging_face.packed import exportable_matrices, quantization_config, tensors_of
from lm.hugging_face.prompts import check_no_prompt
from lm.hugging_face.provenance import FILE
from lm.model import Decoder
from lm.quantized.base import PackedMatrix
from lm.quantized.inputs import check_exact_inputs
from lm.tokenizer import SPECIALS, Tokenizer

# What transformers writes itself (its save_pretrained).
SHARD_BYTES = 5_000_000_000

# Files by which an earlier export, or somebody's model, would be taken for this one, in whole or in part.
STALE = (
    "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin*", "adapter_*",
    "chat_template.*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", FILE,
)  # fmt: skip


def save_shards(weights: dict[str, Tensor], folder: Path, limit: int) -> None:
    """model.safetensors, or shards of at most `limit` bytes (a larger tensor has one for itself) with their index."""
    shards: list[dict[str, Tensor]] = [{}]
    for name, weight in weights.items():
        if shards[-1] and sum(w.nbytes for w in shards[-1].values()) + weight.nbytes > limit:
            shards.append({})
        shards[-1][name] = weight
    if len(shards) == 1:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        places |= dict.fromkeys(shard, file)
    total = sum(weight.nbytes for weight in weights.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def cast(name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in another type. Raises ValueError where that is too small for an entry, or an entry is no finite number."""
    found = weight.detach().to("cpu", dtype).contiguous()
    if not is_finite(found):
        if not is_finite(weight):
            raise ValueError(
                f"{name} has entries that are NaN or infinite: its training went astray, and it is no model"
            )
        largest, end = weight.abs().max().item(), torch.finfo(dtype).max
        kind = str(dtype).removeprefix("torch.")
        raise ValueError(f"{name} has an entry of {largest:.6g}, and {kind} ends at {end:.6g}: take --dtype float32")
    return found


def save_hf(
    model: Decoder,
    tokenizer: Tokenizer,
    folder: Path,
    dtype: torch.dtype,
    shard_bytes: int = SHARD_BYTES,
    packed: dict[str, PackedMatrix] | None = None,
) -> int:
    """A folder that AutoModelForCausalLM and AutoTokenizer open: answers end at the end token, and the chat template is the
    model's own where it has one, else ours, which says what Tokenizer.chat says. A text that spells a special token is read
    as that token there, as text here. Files of another export that would be read with it, or instead of it, are removed.

    packed: matrices of the model, by our names, that are written as they are packed where the format has such ones; all others
    are dequantized. Returns how many there are. Raises ValueError, with nothing written or removed, when no family of theirs
    has what the model uses, the dtype is too small, none of what is packed can be written so, or no token ends an answer.
    """
    check_no_prompt(model)
    check_exact_inputs(model)
    described = to_theirs(model.config)
    theirs = {their_name(name, model.config): (name, weight) for name, weight in model.state_dict().items()}
    written = exportable_matrices(packed or {})
    weights: dict[str, Tensor] = {}
    for name, (ours, weight) in theirs.items():
        if ours in written:
            module = name.removesuffix(".weight")
            weights |= {f"{module}.{part}": tensor for part, tensor in tensors_of(written[ours], dtype).items()}
        else:
            weights[name] = cast(name, weight, dtype)
    if packed is not None:
        if not written:
            raise ValueError(
                "no matrix is packed as compressed-tensors has it: take a symmetric method, such as "
                "quantize.method={name: gptq, symmetric: true}, of groups that divide the columns; or export without packed"
            )
        modules = {name.removesuffix(".weight"): (ours, weight) for name, (ours, weight) in theirs.items()}
        described["quantization_config"] = quantization_config(
            {module: written[ours] for module, (ours, _) in modules.items() if ours in written},
            ["lm_head"]
            + [
                module
                for module, (ours, w) in modules.items()
                if w.ndim == 2 and ours.startswith("blocks.") and ours not in written
            ],
        )
    ends = {
        "eos_token_id": [tokenizer.end_id, tokenizer.eos_id],
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": tokenizer.before[0] if tokenizer.before else None,
    }
    tokens = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **({"bos_token": tokenizer.token(tokenizer.before[0])} if tokenizer.before else {}),
        "eos_token": tokenizer.token(tokenizer.end_id),
        "pad_token": tokenizer.token(tokenizer.pad_id),
        "padding_side": "left",  # generation goes on from the right
        "additional_special_tokens": SPECIALS,
        "model_max_length": model.config.context,
        "clean_up_tokenization_spaces": False,
        "chat_template": tokenizer.template.text,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for path in [path for pattern in STALE for path in folder.glob(pattern) if path.is_file()]:
        path.unlink()
    save_shards(weights, folder, shard_bytes)
    write_json(folder / "config.json", {**described, **ends, "dtype": str(dtype).removeprefix("torch.")})
    write_json(folder / "generation_config.json", {**ends, "do_sample": False, "max_length": model.config.context})
    tokenizer.save(folder)
    write_json(folder / "tokenizer_config.json", tokens)
    return len(written)

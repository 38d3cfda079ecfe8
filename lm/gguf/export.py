"""A model as one GGUF file, which llama.cpp and Ollama open: `make export MODEL=data/rl TO=model.gguf FORMAT=q8_0`.

The format is that of ggml's docs/gguf.md, written by the library gguf; names and orders of tensors are those of llama.cpp's
convert_hf_to_gguf.py.
"""

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lm.files import replacing, write_text
from lm.gguf.modelfile import modelfile
from lm.gguf.vocabulary import Vocabulary
from lm.hugging_face.config import OF_EXPERTS, to_theirs
from lm.hugging_face.load import OUTER, their_name
from lm.hugging_face.prompts import check_no_prompt
from lm.model import Decoder, ModelConfig
from lm.quantized.inputs import check_exact_inputs
from lm.tokenizer import Tokenizer

Format = Literal["f16", "q8_0", "q4_0"]
FORMATS: tuple[Format, ...] = get_args(Format)
# Columns that share a scale.
BLOCK = 32
# They feel few bits the most (tasks/quantize says so, too): 8 bits where the others have 4.
TABLES = (OUTER["embedding.weight"], OUTER["head.weight"])


def family_of(config: ModelConfig) -> str:
    """The architecture as GGUF names it. Raises ValueError for what none has, and for what no reader here has been seen to
    read."""
    described = to_theirs(config)
    if "layer_types" in described:
        raise ValueError("sliding_window is not written to GGUF: no reader has shown that it is read")
    if described["model_type"] in OF_EXPERTS:
        raise ValueError("experts are not written to GGUF: no reader has shown that they are read")
    if config.rope_scaling:
        raise ValueError(
            f"rope_scaling {config.rope_scaling.kind} is not written to GGUF: no reader has shown that it is read"
        )
    return str(described["model_type"])


def in_pairs(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection in llama.cpp's order for Llama: it turns neighbours, where we turn the halves of a
    head."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def theirs(model: Decoder) -> dict[str, Tensor]:
    """Every weight by Hugging Face's name, in llama.cpp's order of rows."""
    config, found = model.config, {}
    llama = family_of(config) == "llama"
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads}
    for name, weight in model.state_dict().items():
        named = their_name(name, config)
        count = heads.get(named.split(".")[-2])
        found[named] = in_pairs(weight, count) if llama and count else weight
    return found


def kind_of(name: str, weight: Tensor, chosen: Format) -> str:
    """How a tensor is stored: "F32", "F16", "Q8_0" or "Q4_0"."""
    if weight.ndim < 2:
        return "F32"
    if chosen == "f16" or weight.shape[-1] % BLOCK:
        return "F16"
    return "Q8_0" if name in TABLES else chosen.upper()


def save_gguf(model: Decoder, tokenizer: Tokenizer, path: Path, chosen: Format) -> list[str]:
    """Write the file, and an Ollama Modelfile beside it. Returns the names of the matrices that have 16 bits in place of fewer,
    since their rows are no multiple of 32. Vectors are float32.

    Raises ValueError, with nothing written, for what GGUF cannot say of the model or of its tokenizer, and for an entry that is
    too large for 16 bits.
    """
    import gguf  # only where one is written

    if model.held:
        raise ValueError("the model has an adapter beside its weights: merge it first")
    check_no_prompt(model)
    check_exact_inputs(model)
    family, vocabulary = family_of(model.config), Vocabulary.of(tokenizer, model.config.vocab_size)
    weights = theirs(model)
    kinds = {name: kind_of(name, weight, chosen) for name, weight in weights.items()}
    stored = {name: packed(name, weight, kinds[name]) for name, weight in weights.items()}
    architecture = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(architecture, model.config.layers)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        writer = gguf.GGUFWriter(unfinished, family)
        describe(writer, model.config, vocabulary, path.stem, chosen)
        for name, data in stored.items():
            place = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert place, name
            writer.add_tensor(place, data, raw_dtype=gguf.GGMLQuantizationType[kinds[name]])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    write_text(path.with_name("Modelfile"), modelfile(path.name, tokenizer, model.config.context))
    return [name for name, kind in kinds.items() if kind == "F16" and chosen != "f16"]


def packed(name: str, weight: Tensor, kind: str) -> np.ndarray:
    """The tensor as it is stored. Raises ValueError where an entry is not finite, or too large for the scale or for 16 bits."""
    from gguf import GGMLQuantizationType, quants

    wide = weight.detach().to("cpu", torch.float32).contiguous()
    largest = wide.abs().max().item()
    if not largest <= (torch.finfo(torch.float32) if kind == "F32" else torch.finfo(torch.float16)).max:
        raise ValueError(f"{name} has an entry of {largest:.6g}, which {kind} has not")
    return np.ascontiguousarray(quants.quantize(wide.numpy(), GGMLQuantizationType[kind]))


def describe(writer: Any, config: ModelConfig, vocabulary: Vocabulary, name: str, chosen: Format) -> None:
    """Write the model's shape and its tokenizer."""
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    writer.add_name(name)
    writer.add_file_type(LlamaFileType[f"MOSTLY_{chosen.upper()}"])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(vocabulary.merges)
    if vocabulary.begin is not None:
        writer.add_bos_token_id(vocabulary.begin)
    writer.add_eos_token_id(vocabulary.end)
    writer.add_pad_token_id(vocabulary.pad)
    writer.add_add_bos_token(vocabulary.begin is not None)
    writer.add_add_eos_token(False)
    writer.add_chat_template(vocabulary.template)

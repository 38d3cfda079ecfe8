"""config.json of Hugging Face and ModelConfig, both ways."""

from typing import Any

from lm.model import ModelConfig
from lm.rope import Linear, Llama3, Scaling, Yarn

FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# What the decoder does not have, by key, with the values that ask for nothing.
ABSENT = {
    "hidden_act": ("silu", None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "pretraining_tp": (1, None),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
}


def from_theirs(theirs: dict[str, Any]) -> ModelConfig:
    """The shape that a config.json describes. Raises ValueError naming the key that asks for what the decoder has not."""
    family = theirs.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"model_type {family!r} is none of {', '.join(FAMILIES)}")
    for key, fine in ABSENT.items():
        if theirs.get(key) not in fine:
            raise ValueError(f"{key} {theirs[key]!r} is not supported")
    if theirs.get("attention_bias"):
        raise ValueError("attention_bias true is not supported: it biases the output projection as well")
    if any(kind != "full_attention" for kind in theirs.get("layer_types") or []):
        raise ValueError("layer_types other than full_attention are not supported")
    heads = theirs["num_attention_heads"]
    rope = theirs.get("rope_parameters") or {**(theirs.get("rope_scaling") or {})}  # transformers 5, and before it
    context = theirs["max_position_embeddings"]
    # files before transformers 4.x leave out what their class has by default: 128 in Qwen 3, the quotient elsewhere
    head_width = theirs.get("head_dim") or (128 if family == "qwen3" else theirs["hidden_size"] // heads)
    return ModelConfig(
        vocab_size=theirs["vocab_size"],
        width=theirs["hidden_size"],
        layers=theirs["num_hidden_layers"],
        heads=heads,
        kv_heads=theirs.get("num_key_value_heads") or heads,
        head_width=head_width,
        ffn_width=theirs["intermediate_size"],
        context=context,
        rope_theta=float(rope.get("rope_theta") or theirs.get("rope_theta") or 10_000.0),
        rope_scaling=scaling_from(rope, context),
        norm_eps=theirs.get("rms_norm_eps", 1e-6),
        qk_norm=family == "qwen3",
        qkv_bias=family == "qwen2",
        tied=theirs.get("tie_word_embeddings", False),
    )


def scaling_from(rope: dict[str, Any], context: int) -> Scaling | None:
    """The stretch that a rope_scaling or rope_parameters section describes; None for the plain rotation."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    original = rope.get("original_max_position_embeddings") or context
    if kind == "default":
        return None
    if kind == "linear":
        return Linear(factor=float(rope["factor"]))
    if kind == "llama3":
        return Llama3(
            factor=float(rope["factor"]),
            low_turns=float(rope["low_freq_factor"]),
            high_turns=float(rope["high_freq_factor"]),
            original_context=original,
        )
    if kind == "yarn" and not {"mscale", "mscale_all_dim", "attention_factor", "truncate"} & {
        k for k, v in rope.items() if v is not None
    }:
        slow, fast = float(rope.get("beta_slow") or 1), float(rope.get("beta_fast") or 32)
        return Yarn(factor=float(rope["factor"]), slow_turns=slow, fast_turns=fast, original_context=original)
    raise ValueError(f"rotary positions of kind {kind!r} with {', '.join(sorted(rope))} are not supported")


def scaling_to(scaling: Scaling) -> dict[str, Any]:
    """The rope_scaling section."""
    theirs: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if isinstance(scaling, Llama3):
        theirs |= {"low_freq_factor": scaling.low_turns, "high_freq_factor": scaling.high_turns}
    if isinstance(scaling, Yarn):
        theirs |= {"beta_slow": scaling.slow_turns, "beta_fast": scaling.fast_turns}
    if not isinstance(scaling, Linear):
        theirs["original_max_position_embeddings"] = scaling.original_context
    return theirs


def to_theirs(config: ModelConfig) -> dict[str, Any]:
    """config.json of the family that has what the model uses, in the keys that transformers 4 and 5 both read.

    Raises ValueError for QK-norm together with biases, which no family has.
    """
    if config.qk_norm and config.qkv_bias:
        raise ValueError("no Hugging Face family has both qk_norm and qkv_bias")
    family = "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
    if family == "qwen2" and config.each_head * config.heads != config.width:
        raise ValueError("Qwen 2 has no head width of its own: width must be heads x head_width")
    return {
        "model_type": family,
        "architectures": [FAMILIES[family]],
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.each_head,
        "intermediate_size": config.ffn_width,
        "max_position_embeddings": config.context,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling_to(config.rope_scaling) if config.rope_scaling else None,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
        "attention_bias": False,
        "use_sliding_window": False,
    }

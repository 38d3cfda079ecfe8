"""config.json of Hugging Face and ModelConfig, both ways."""

from reprlib import repr as shown
from typing import Any

from pydantic import ValidationError

from lm.config import mistakes
from lm.feed_forwards.experts import Experts
from lm.feed_forwards.swiglu import SwiGLU
from lm.mixers.sliding_window import SlidingWindow
from lm.model import Layer, ModelConfig
from lm.rope import Linear, Llama3, Scaling, Yarn

FAMILIES = {
    "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
    "mixtral": "MixtralForCausalLM", "qwen2_moe": "Qwen2MoeForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM",
}  # fmt: skip
OF_EXPERTS = ("mixtral", "qwen2_moe", "qwen3_moe")
ROPE = ("rope_parameters", "rope_scaling")  # transformers 5, and before it
# What the decoder does not have, by key, with the values that ask for nothing.
ABSENT = {
    "hidden_act": ("silu", None),
    "mlp_bias": (False, None),
    "pretraining_tp": (1, None),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
}
# Keys that are true or false, and lists with the type of their entries
FLAGS = ("attention_bias", "mlp_bias", "use_sliding_window", "qkv_bias", "tie_word_embeddings", "norm_topk_prob")
LISTS: dict[str, type] = {"layer_types": str, "mlp_only_layers": int}
# Beyond any model's, and small enough that no product of them overflows: of whole numbers, of those of parts, and of others
LARGEST, LEAST_NUMBER, LARGEST_NUMBER = 1 << 24, 1e-20, 1e20
PARTS = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "num_experts", "num_local_experts")
MOST = dict.fromkeys(PARTS, 1 << 12)
KINDS = {"full_attention", "sliding_attention"}
# The numbers of ModelConfig by their names, and of those that a file may leave out what their classes have by default.
SIZES = {
    "vocab_size": None,
    "hidden_size": None,
    "num_hidden_layers": None,
    "num_attention_heads": None,
    "intermediate_size": None,
    "max_position_embeddings": None,
    "num_key_value_heads": 0,
    "head_dim": 0,
}


def from_theirs(theirs: dict[str, Any]) -> ModelConfig:
    """The shape that a config.json describes; a null counts as left out. Raises KeyError for a key that is missing, and
    ValueError naming the key that is no number, or asks for what the decoder has not."""
    theirs = _without_nulls(theirs)
    family = theirs.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(f"model_type {shown(family)} is none of {', '.join(FAMILIES)}")
    check_kinds(theirs)
    for key, fine in ABSENT.items():
        if theirs.get(key) not in fine:
            raise ValueError(f"{key} {shown(theirs[key])} is not supported")
    if theirs.get("attention_bias"):
        raise ValueError("attention_bias true is not supported: it biases the output projection as well")
    size = {name: _whole(theirs, name, default) for name, default in SIZES.items()}
    heads, context = size["num_attention_heads"], size["max_position_embeddings"]
    rope = rope_of(theirs)
    # files before transformers 4.x leave out what their class has by default: 128 in Qwen 3, the quotient elsewhere
    head_width = size["head_dim"] or (128 if family == "qwen3" else size["hidden_size"] // heads)
    # what classes have by default
    theta, epsilon = (1e6, 1e-5) if family == "mixtral" else (1e4, 1e-6)
    theta = _number(rope, "rope_theta", _number(theirs, "rope_theta", theta))
    if theta <= 1:
        raise ValueError(f"rope_theta {theta} is no number above 1")
    try:
        return ModelConfig(
            vocab_size=size["vocab_size"],
            width=size["hidden_size"],
            layers=size["num_hidden_layers"],
            heads=heads,
            kv_heads=size["num_key_value_heads"] or heads,
            head_width=head_width,
            ffn_width=size["intermediate_size"],
            context=context,
            rope_theta=theta,
            rope_scaling=scaling_from(rope, context),
            norm_eps=_number(theirs, "rms_norm_eps", epsilon),
            qk_norm=family in ("qwen3", "qwen3_moe"),
            qkv_bias=family == "qwen2" or (family == "qwen2_moe" and theirs.get("qkv_bias", True)),
            tied=theirs.get("tie_word_embeddings", False),
            feed_forward=experts_from(theirs) if family in OF_EXPERTS else SwiGLU(),
            pattern=(dense_among if family in OF_EXPERTS else pattern_from)(theirs, size["num_hidden_layers"]),
        )
    except ValidationError as error:  # with our names
        raise ValueError(mistakes(error)) from None


def check_kinds(theirs: dict[str, Any]) -> None:
    """Raises ValueError naming a key that should be a flag, a list or an object, and is not; of numbers those that are used say
    so themselves."""
    for key in FLAGS:
        if not isinstance(theirs.get(key, False), bool):
            raise ValueError(f"{key} {shown(theirs[key])} is neither true nor false")
    for key, kind in LISTS.items():
        values = theirs.get(key, [])
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            raise ValueError(f"{key} {shown(values)} is no list of layers by {'kind' if kind is str else 'number'}")
    for key in ROPE:
        if not isinstance(theirs.get(key, {}), dict):
            raise ValueError(f"{key} {shown(theirs[key])} is no object")


def rope_of(theirs: dict[str, Any]) -> dict[str, Any]:
    """What is said of rotary positions, of all layers alike. Raises ValueError where kinds of layers have others."""
    key = next((key for key in ROPE if theirs.get(key)), ROPE[0])
    rope = _without_nulls(theirs.get(key, {}))
    by_kind = [_without_nulls(value) for value in rope.values() if isinstance(value, dict)]
    if by_kind:
        there = set(theirs.get("layer_types", KINDS if theirs.get("use_sliding_window") else {"full_attention"}))
        if any(other != by_kind[0] for other in by_kind) or not there <= set(rope) <= KINDS or len(by_kind) < len(rope):
            raise ValueError(f"{key} of {', '.join(map(shown, rope))} is not supported: it must be one for all layers")
        rope = by_kind[0]
    if rope.get("partial_rotary_factor", 1) != 1:
        raise ValueError(f"partial_rotary_factor {shown(rope['partial_rotary_factor'])} is not supported")
    return rope


def _without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def pattern_from(theirs: dict[str, Any], layers: int) -> list[Layer]:
    """The pattern of a model whose layers attend to all tokens, or some of them to a window."""
    kinds = theirs.get("layer_types")
    windows = theirs.get("use_sliding_window", False)
    if kinds is None:
        first = _whole(theirs, "max_window_layers", 28) if windows else layers
        kinds = ["full_attention" if index < first else "sliding_attention" for index in range(layers)]
    if set(kinds) == {"full_attention"}:
        return []
    if len(kinds) != layers or not set(kinds) <= KINDS:
        raise ValueError(f"layer_types {shown(kinds)} of {layers} layers are not supported")
    if not windows or theirs["model_type"] == "llama":
        raise ValueError(f"sliding_attention in {theirs['model_type']} without use_sliding_window is not supported")
    window = SlidingWindow(window=_whole(theirs, "sliding_window", None))
    return _repeated([Layer(mixer=window if kind == "sliding_attention" else None) for kind in kinds])


def _repeated(every: list[Layer]) -> list[Layer]:
    """The shortest pattern that gives these layers."""
    layers = len(every)
    return every[: next(n for n in range(1, layers + 1) if every == [every[index % n] for index in range(layers)])]


def experts_from(theirs: dict[str, Any]) -> Experts:
    """The experts of a layer."""
    active, balance = _whole(theirs, "num_experts_per_tok", None), _share(theirs, "router_aux_loss_coef", 0.001)
    count = _whole(theirs, "num_experts" if "num_experts" in theirs else "num_local_experts", None)
    if theirs["model_type"] == "mixtral":
        return Experts(experts=count, active=active, balance=balance, router_z=0.0)
    width = _whole(theirs, "moe_intermediate_size", None)
    beside = _whole(theirs, "shared_expert_intermediate_size", None) if theirs["model_type"] == "qwen2_moe" else 0
    if beside % width:
        raise ValueError(f"shared_expert_intermediate_size {beside} is no multiple of moe_intermediate_size {width}")
    return Experts(
        experts=count,
        active=active,
        width=width,
        normalised=theirs.get("norm_topk_prob", False),
        shared=beside // width,
        shared_gate=beside > 0,
        balance=balance,
        router_z=0.0,
    )


def dense_among(theirs: dict[str, Any], layers: int) -> list[Layer]:
    """The pattern of a model of experts, some of whose layers may have none."""
    window = theirs.get("sliding_window") if theirs["model_type"] == "mixtral" else theirs.get("use_sliding_window")
    if window or set(theirs.get("layer_types", ())) - {"full_attention"}:
        raise ValueError(f"a window in {theirs['model_type']} is not supported")
    if theirs.get("decoder_sparse_step", 1) != 1:
        raise ValueError(f"decoder_sparse_step {shown(theirs['decoder_sparse_step'])} is not supported")
    dense = theirs.get("mlp_only_layers", [])
    if not dense:
        return []
    return _repeated([Layer(feed_forward=SwiGLU() if index in dense else None) for index in range(layers)])


def _whole(theirs: dict[str, Any], name: str, default: int | None) -> int:
    value = theirs[name] if default is None else theirs.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < (default is None):
        raise ValueError(f"{name} {shown(value)} is no whole number above 0")
    if value > MOST.get(name, LARGEST):
        raise ValueError(f"{name} {shown(value)} is more than any model has: {MOST.get(name, LARGEST)} at most")
    return value


def _number(theirs: dict[str, Any], name: str, default: float | None = None) -> float:
    value = theirs[name] if default is None else theirs.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError(f"{name} {shown(value)} is no number above 0")
    if not LEAST_NUMBER <= value <= LARGEST_NUMBER:
        raise ValueError(f"{name} {shown(value)} is no model's: {LEAST_NUMBER} to {LARGEST_NUMBER}")
    return float(value)


def _share(theirs: dict[str, Any], name: str, default: float) -> float:
    """A number that may be 0."""
    value = theirs.get(name)
    return 0.0 if value == 0 and value is not False else _number(theirs, name, default)


def scaling_from(rope: dict[str, Any], context: int) -> Scaling | None:
    """The stretch that a rope_scaling or rope_parameters section describes; None for the plain rotation."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    original = _whole(rope, "original_max_position_embeddings", 0) or context
    if kind == "default":
        return None
    if kind == "linear":
        return Linear(factor=_number(rope, "factor"))
    if kind == "llama3":
        low, high = _number(rope, "low_freq_factor"), _number(rope, "high_freq_factor")
        if low >= high:
            raise ValueError(f"high_freq_factor {high} is not above low_freq_factor {low}")
        return Llama3(factor=_number(rope, "factor"), low_turns=low, high_turns=high, original_context=original)
    if kind == "yarn" and not {"mscale", "mscale_all_dim", "attention_factor", "truncate"} & rope.keys():
        slow, fast = _number(rope, "beta_slow", 1.0), _number(rope, "beta_fast", 32.0)
        return Yarn(factor=_number(rope, "factor"), slow_turns=slow, fast_turns=fast, original_context=original)
    raise ValueError(
        f"rotary positions of kind {shown(kind)} with {', '.join(map(shown, sorted(rope)))} are not supported"
    )


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

    Raises ValueError for what no family has, such as QK-norm together with biases, or a part of another kind.
    """
    if not config.causal:
        raise ValueError("no Hugging Face family has a model of masked diffusion, which is not causal")
    if config.qk_norm and config.qkv_bias:
        raise ValueError("no Hugging Face family has both qk_norm and qkv_bias")
    if config.logit_softcap is not None:
        raise ValueError(
            "no Hugging Face family that is written here has logit_softcap: Gemma 2, which has, is made of other layers"
        )
    family = "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
    described = {
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_width,
        "max_position_embeddings": config.context,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling_to(config.rope_scaling) if config.rope_scaling else None,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "attention_bias": False,
        "use_sliding_window": False,
        **parts_to(config, family),
    }
    if described["model_type"].startswith("qwen2") and config.head_dim * config.heads != config.width:
        raise ValueError("Qwen 2 has no head width of its own: width must be heads x head_width")
    return {**described, "architectures": [FAMILIES[described["model_type"]]]}


def parts_to(config: ModelConfig, family: str) -> dict[str, Any]:
    """What the parts of the layers say of themselves. Raises ValueError where they cannot be said in one config.json."""
    config.norm.hugging_face_config()
    for part in config.embeddings:
        part.hugging_face_config()
    kinds: list[str] = []
    keys: dict[str, Any] = {}
    dense: list[int] = []
    for index in range(config.layers):
        layer = config.layer(index)
        for part in layer.embeddings:
            part.hugging_face_config()
        if layer.depths is not None:
            raise ValueError(f"no Hugging Face family has depths, by which tokens go past layer {index}")
        said = {**layer.mixer.hugging_face_config(config), **layer.feed_forward.hugging_face_config(config)}
        kinds.append(said.pop("layer_type"))
        if "model_type" not in said:
            dense.append(index)
        for key, value in said.items():
            if keys.setdefault(key, value) != value:
                raise ValueError(f"no Hugging Face family has layers with {key} {keys[key]} and others with {value}")
    if "model_type" in keys:
        if dense and keys["model_type"] == "mixtral":
            raise ValueError("Mixtral has experts in every layer: with qk_norm layers of both kinds are Qwen3-MoE")
        keys |= {"mlp_only_layers": dense} if dense else {}
    if set(kinds) == {"full_attention"}:
        return keys
    if "model_type" in keys:
        raise ValueError("experts are exported without sliding_window: no family of both has been read back")
    if family == "llama":
        raise ValueError(
            "Llama has no sliding_window: a model with qk_norm or qkv_bias can be exported, as Qwen 3 or 2"
        )
    return {**keys, "layer_types": kinds}

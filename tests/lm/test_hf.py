"""Hugging Face folders both ways, against transformers itself: logits, greedy tokens, tokenizer, chat template."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from lm.hugging_face.config import from_theirs, to_theirs
from lm.hugging_face.export import save_hf
from lm.hugging_face.load import load_hf, resize_token_embeddings
from lm.model import Decoder
from lm.sampler import generate
from tests.lm.models import toy_model, toy_tokenizer

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SIZES = {
    "vocab_size": 261,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-2": ("Llama", {"num_attention_heads": 4, "num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama-3": (
        "Llama",
        {
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "rope_parameters": {**LLAMA3, "rope_theta": 500000.0, "original_max_position_embeddings": 32},
        },
    ),
    "smollm": ("Llama", {"num_attention_heads": 3, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "linear": (
        "Llama",
        {"num_attention_heads": 4, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
    ),
    "qwen-2": ("Qwen2", {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen-2-yarn": (
        "Qwen2",
        {
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e6,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "qwen-2-window": (
        "Qwen2",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "use_sliding_window": True,
            "sliding_window": 7,
            "max_window_layers": 0,
        },
    ),
    "qwen-3-window": (
        "Qwen3",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 20,
            "use_sliding_window": True,
            "sliding_window": 11,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "qwen-3": ("Qwen3", {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 20}),
    "mixtral": ("Mixtral", {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}),
    "qwen-2-moe": (
        "Qwen2Moe",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 48,
        },
    ),
    "qwen-3-moe": (
        "Qwen3Moe",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 20,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 40,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
        },
    ),
}
# fp32 with sums in another order; logits are of the order of 1 to 10
LOGITS = {"rtol": 0, "atol": 1e-4}


def theirs_of(family: str) -> Any:
    """A model of transformers with random weights, norms and biases away from where they begin."""
    kind, shape = FAMILIES[family]
    config = getattr(transformers, f"{kind}Config")(**SIZES, **shape, bos_token_id=None, eos_token_id=None)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape) * (0.2 if weight.ndim == 1 else 0.1))
    return model


def ids_of(length: int) -> Tensor:
    return torch.randint(5, 261, (2, length), generator=torch.Generator().manual_seed(1))


def ours_greedy(model: Decoder, prompts: Tensor, count: int) -> list[list[int]]:
    return [c.ids for c in generate(model, prompts.tolist(), count, 0.0, stop_id=-1, seed=0)]


def theirs_greedy(model: Any, prompts: Tensor, count: int) -> list[list[int]]:
    made = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=1,
    )
    return made[:, prompts.shape[1] :].tolist()


# in several files: a dense one and one of experts
@pytest.mark.parametrize(
    ("family", "shard"), [*((family, "5GB") for family in FAMILIES), ("llama-3", "40KB"), ("mixtral", "40KB")]
)
def test_imported_models_say_the_same(family: str, shard: str, tmp_path: Path) -> None:
    theirs = theirs_of(family)
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "40KB")
    ours, ids = load_hf(tmp_path), ids_of(60)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, **LOGITS)
    assert ours_greedy(ours, ids[:, :9], 20) == theirs_greedy(theirs, ids[:, :9], 20)


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_models_say_the_same_in_transformers(family: str, tmp_path: Path) -> None:
    theirs_of(family).save_pretrained(tmp_path / "theirs")
    ours, ids = load_hf(tmp_path / "theirs"), ids_of(60)
    save_hf(ours, toy_tokenizer(), tmp_path / "ours", torch.float32, shard_bytes=50_000)
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 1
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert type(loaded).__name__.startswith(FAMILIES[family][0])
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), loaded.eval()(ids).logits, **LOGITS)
    assert ours_greedy(ours, ids[:, :9], 20) == theirs_greedy(loaded, ids[:, :9], 20)
    assert to_theirs(from_theirs(to_theirs(ours.config))) == to_theirs(ours.config)


def test_generation_ends_where_ours_does_and_the_chat_template_says_what_chat_says(tmp_path: Path) -> None:
    tokenizer, model = toy_tokenizer(), toy_model(seed=2)
    save_hf(model, tokenizer, tmp_path, torch.float32)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "12 + 34 = \N{GREEK SMALL LETTER ALPHA}\n"
    assert theirs(text).input_ids == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text), skip_special_tokens=True) == text
    asked = [{"role": "user", "content": text}]
    assert theirs.apply_chat_template(asked, add_generation_prompt=True, return_dict=False) == tokenizer.chat(text)
    whole = theirs.apply_chat_template([*asked, {"role": "assistant", "content": "46"}], return_dict=False)
    assert whole == [*tokenizer.chat(text), *tokenizer.encode("46"), tokenizer.end_id]
    with pytest.raises(Exception, match="the roles are system, user, assistant and tool, not judge"):
        theirs.apply_chat_template([{"role": "judge", "content": "x"}])
    assert (theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.end_id, tokenizer.pad_id)
    ends = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert ends.eos_token_id == [tokenizer.end_id, tokenizer.eos_id] and ends.pad_token_id == tokenizer.pad_id


def test_half_precision_is_half_the_size(tmp_path: Path) -> None:
    model = toy_model()
    sizes = []
    for dtype in (torch.float32, torch.bfloat16):
        save_hf(model, toy_tokenizer(), tmp_path / str(dtype), dtype)
        sizes.append((tmp_path / str(dtype) / "model.safetensors").stat().st_size)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "torch.bfloat16")
    assert loaded.dtype == torch.bfloat16 and sizes[1] < 0.6 * sizes[0]
    assert torch.equal(load_hf(tmp_path / "torch.bfloat16").norm.weight, model.norm.weight.bfloat16().float())


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_begin_as_the_mean_of_the_old(tied: bool) -> None:
    model, ids = toy_model(tied=tied).eval(), ids_of(20)
    larger = resize_token_embeddings(model, 265)
    assert resize_token_embeddings(model, 200) is model and larger.config.vocab_size == 265
    with torch.no_grad():
        before, after = model(ids), larger(ids)
    torch.testing.assert_close(after[..., :261], before)
    torch.testing.assert_close(after[..., 264], before.mean(-1), rtol=0, atol=1e-5)


def test_what_the_decoder_has_not_is_refused_with_file_and_key(tmp_path: Path) -> None:
    theirs_of("qwen-3").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    good = json.loads(path.read_text())
    for change, reason in [
        ({"model_type": "mamba"}, "model_type 'mamba' is none of llama, qwen2, qwen3"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"layer_types": ["sliding_attention"] * 3}, "sliding_attention in qwen3 without use_sliding_window"),
        ({"layer_types": ["linear_attention"] * 3}, "layer_types"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "kind 'dynamic'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": 32}, "does not fit its config.json"),
        ({"num_hidden_layers": 2}, "has unknown 11 weights such as model.layers.2"),
        ({"num_hidden_layers": 4}, "misses 11 weights such as model.layers.3"),
    ]:
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(ValueError, match=reason):
            load_hf(tmp_path)
    path.write_text(json.dumps({key: value for key, value in good.items() if key != "hidden_size"}))
    with pytest.raises(ValueError, match="config.json: has no 'hidden_size'"):
        load_hf(tmp_path)
    path.write_text(json.dumps(good))
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="model.safetensors: cannot be read"):
        load_hf(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="config.json: no such file"):
        load_hf(tmp_path)


@pytest.mark.parametrize(
    ("family", "change", "reason"),
    [
        ("mixtral", {"sliding_window": 8}, "a window in mixtral is not supported"),
        ("mixtral", {"num_experts_per_tok": 5}, "active: 5 of 4 experts"),
        ("mixtral", {"num_experts_per_tok": 1}, "one expert's weight is always 1"),
        ("mixtral", {"num_local_experts": None}, "has no 'num_local_experts'"),
        ("mixtral", {"router_aux_loss_coef": "much"}, "router_aux_loss_coef 'much' is no number"),
        ("qwen-2-moe", {"shared_expert_intermediate_size": 40}, "40 is no multiple of moe_intermediate_size 24"),
        ("qwen-3-moe", {"decoder_sparse_step": 2}, "decoder_sparse_step 2 is not supported"),
        ("qwen-3-moe", {"mlp_only_layers": "all"}, "mlp_only_layers 'all' is no list of layers"),
    ],
)
def test_experts_that_the_decoder_has_not_are_refused(
    family: str, change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    theirs_of(family).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=reason) as caught:
        load_hf(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"experts": {"shared": 1}, "qk_norm": False}, "with shared_gate and without qk_norm"),
        ({"experts": {"shared": 1, "shared_gate": True}}, "with shared_gate and without qk_norm"),
        ({"experts": {}, "qk_norm": False, "qkv_bias": True}, "Mixtral, which has no qkv_bias without a shared expert"),
        ({"experts": {"normalised": False}, "qk_norm": False}, "has no weights that are not normalised"),
        ({"experts": {}, "mixer": {"name": "sliding_window"}}, "exported without sliding_window"),
        ({"experts": {}, "qk_norm": False, "pattern": [{}, {"feed_forward": {"name": "swiglu"}}]}, "in every layer"),
        ({"experts": {}, "pattern": [{}, {"feed_forward": {"name": "experts", "active": 3}}]}, "num_experts_per_tok 2"),
    ],
)
def test_experts_that_no_family_has_are_refused(shape: dict[str, Any], reason: str, tmp_path: Path) -> None:
    experts = {"name": "experts", **shape.pop("experts")}
    with pytest.raises(ValueError, match=reason) as caught:
        save_hf(toy_model(feed_forward=experts, **shape), toy_tokenizer(), tmp_path, torch.float32)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_no_family_has_both_norms_and_biases(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both qk_norm and qkv_bias"):
        save_hf(toy_model(qkv_bias=True), toy_tokenizer(), tmp_path, torch.float32)

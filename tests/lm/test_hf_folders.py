"""Model folders as people have them, against transformers: heads of their own, leftovers, nulls, and files that are no model."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lm.chat_template import ChatTemplate
from lm.checkpoint import load_model, save_model
from lm.hugging_face.config import ABSENT, FAMILIES, FLAGS, LISTS, ROPE, SIZES
from lm.hugging_face.export import cast, save_hf
from lm.hugging_face.load import config_of, is_finite, load_hf
from lm.hugging_face.provenance import FILE, digest_of, read_provenance, write_provenance
from lm.model import Decoder
from lm.model_folder import is_hugging_face
from lm.rope import Yarn
from lm.tokenizer import Tokenizer
from tests.lm.models import toy_model, toy_tokenizer

IDS = torch.tensor([[5, 9, 17, 30, 200]])
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def exported(folder: Path, **shape: Any) -> Path:
    save_hf(toy_model(**shape), toy_tokenizer(), folder, torch.float32)
    return folder


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def assert_read_as_transformers_does(folder: Path) -> None:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():  # fp32 with sums in another order; logits are of the order of 1 to 10
        torch.testing.assert_close(load_hf(folder)(IDS), theirs(IDS).logits, rtol=0, atol=1e-4)


HEADS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "none": lambda w: None,
    "the embedding again": lambda w: w.update({HEAD: w[EMBEDDING].clone()}),
    "another": lambda w: w.update({HEAD: torch.randn_like(w[EMBEDDING])}),
    "in place of the embedding": lambda w: w.update({HEAD: w.pop(EMBEDDING)}),
}


@pytest.mark.parametrize("head", HEADS)
def test_the_head_of_a_tied_model(head: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_weights(exported(tmp_path, tied=True), HEADS[head])
    assert load_hf(tmp_path).config.tied == (head != "another")
    said = capsys.readouterr().err
    assert ("tie_word_embeddings, and the files have another lm_head.weight" in said) == (head == "another")
    assert_read_as_transformers_does(tmp_path)


@pytest.mark.parametrize("before", [50_000, 5_000_000_000])
@pytest.mark.parametrize("after", [50_000, 5_000_000_000])
def test_an_export_leaves_nothing_of_the_one_before(before: int, after: int, tmp_path: Path) -> None:
    """Nor of a model of somebody else's whose files transformers would read with it."""
    old, new = toy_model(seed=1, layers=4), toy_model(seed=2)
    save_hf(old, toy_tokenizer(), tmp_path, torch.float32, shard_bytes=before)
    (tmp_path / "chat_template.jinja").write_text("another")
    (tmp_path / "notes.txt").write_text("mine")
    save_hf(new, toy_tokenizer(), tmp_path, torch.float32, shard_bytes=after)
    assert torch.equal(load_hf(tmp_path).embedding.weight, new.embedding.weight)
    assert_read_as_transformers_does(tmp_path)
    template = transformers.AutoTokenizer.from_pretrained(tmp_path).chat_template
    assert "another" not in template and (tmp_path / "notes.txt").read_text() == "mine"
    clean = tmp_path.parent / f"{tmp_path.name}-clean"
    save_hf(new, toy_tokenizer(), clean, torch.float32, shard_bytes=after)
    assert {p.name for p in tmp_path.iterdir()} == {"notes.txt", *(p.name for p in clean.iterdir())}


def test_a_file_beside_a_stale_index_is_the_model(tmp_path: Path) -> None:
    exported(tmp_path, seed=2)
    save_hf(toy_model(seed=1), toy_tokenizer(), tmp_path / "old", torch.float32, shard_bytes=50_000)
    for path in (tmp_path / "old").glob("model*"):
        shutil.copyfile(path, tmp_path / path.name)
    assert_read_as_transformers_does(tmp_path)


@pytest.mark.parametrize(("dtype", "entry"), [(torch.float16, 70000.0), (torch.bfloat16, 3.4e38)])
def test_what_a_type_cannot_hold_is_not_exported(dtype: torch.dtype, entry: float, tmp_path: Path) -> None:
    model = toy_model()
    with torch.no_grad():
        model.blocks[0].ffn.up.weight[1, 2] = -entry
    with pytest.raises(
        ValueError, match=r"model.layers.0.mlp.up_proj.weight has an entry of .* ends at .* --dtype float32"
    ):
        save_hf(model, toy_tokenizer(), tmp_path / "out", dtype)
    assert not (tmp_path / "out").exists()
    save_hf(model, toy_tokenizer(), tmp_path / "out", torch.float32)


def test_a_tokenizer_that_ends_no_answer_leaves_an_earlier_export_whole(tmp_path: Path) -> None:
    exported(tmp_path, seed=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    tokenizer = toy_tokenizer()
    tokenizer.own_template, tokenizer.template = (
        True,
        ChatTemplate("{% for message in messages %}{{ message.content }}{% endfor %}"),
    )
    with pytest.raises(ValueError, match="puts no control token behind an answer"):
        save_hf(toy_model(seed=2), tokenizer, tmp_path, torch.float32)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_weights_were_made_of_is_said_beside_them(tmp_path: Path) -> None:
    """Of each file, for one folder of several exports, and of a source of several files; no more once they are others'."""
    for name, seed in (("ours", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, toy_model(seed=seed), toy_tokenizer())
    save_hf(toy_model(), toy_tokenizer(), tmp_path / "shards", torch.float32, shard_bytes=50_000)
    to = tmp_path / "to"
    to.mkdir()
    for name in ("a.gguf", "b.gguf", "c.gguf"):
        (to / name).write_text(name)
    write_provenance(to, ["a.gguf", "b.gguf"], tmp_path / "ours")
    (to / "b.gguf").unlink()
    write_provenance(to, ["c.gguf"], tmp_path / "shards")
    ours = hashlib.sha256((tmp_path / "ours/model.safetensors").read_bytes()).hexdigest()
    assert digest_of(tmp_path / "ours") == ours != digest_of(tmp_path / "other")
    assert read_provenance(to) == {
        "a.gguf": (hashlib.sha256(b"a.gguf").hexdigest(), ours),
        "c.gguf": (hashlib.sha256(b"c.gguf").hexdigest(), digest_of(tmp_path / "shards")),
    }
    (to / FILE).write_text("torn")
    with pytest.raises(ValueError, match=r"made_of\.json: does not say"):
        read_provenance(to)
    write_provenance(to, ["a.gguf"], tmp_path / "other")
    assert list(read_provenance(to)) == ["a.gguf"]
    save_hf(toy_model(), toy_tokenizer(), to, torch.float32)
    assert read_provenance(to) == {}
    with pytest.raises(ValueError, match="no such file"):
        digest_of(tmp_path / "none")


@pytest.mark.parametrize("entry", [float("nan"), float("inf")])
def test_what_is_no_finite_number_is_not_exported(entry: float, tmp_path: Path) -> None:
    model = toy_model()
    with torch.no_grad():
        model.blocks[0].ffn.up.weight[1, 2] = entry
    with pytest.raises(ValueError, match=r"model.layers.0.mlp.up_proj.weight has entries that are NaN or infinite"):
        save_hf(model, toy_tokenizer(), tmp_path / "out", torch.float32)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_nulls_and_a_byte_order_mark_are_as_if_left_out(tmp_path: Path) -> None:
    theirs = exported(tmp_path, kv_heads=4, tied=False, qk_norm=False)
    nulls = dict.fromkeys(("rms_norm_eps", "rope_scaling", "head_dim", "num_key_value_heads", "tie_word_embeddings"))
    edit(theirs, **nulls, layer_types=None, rope_theta=None)
    (theirs / "config.json").write_text((theirs / "config.json").read_text(), encoding="utf-8-sig")
    (theirs / "tokenizer.json").write_text((theirs / "tokenizer.json").read_text(), encoding="utf-8-sig")
    found, wanted = load_hf(theirs), toy_model(kv_heads=4, tied=False, qk_norm=False)
    assert torch.equal(found(IDS), wanted.eval()(IDS))


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": None}, "has no 'hidden_size'"),
    ({"hidden_size": "32"}, "hidden_size '32' is no whole number above 0"),
    ({"num_attention_heads": 0}, "num_attention_heads 0 is no whole number"),
    ({"num_hidden_layers": 2.0}, "num_hidden_layers 2.0 is no whole number"),
    ({"rms_norm_eps": "small"}, "rms_norm_eps 'small' is no number above 0"),
    ({"rope_theta": [1]}, r"rope_theta \[1\] is no number"),
    ({"model_type": ["llama"]}, r"model_type \['llama'\] is none of llama"),
    ({"layer_types": 5}, "layer_types 5 is no list of layers by kind"),
    ({"layer_types": [{}]}, r"layer_types \[{}\] is no list of layers by kind"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings 'false' is neither true nor false"),
    ({"vocab_size": 10**15}, "vocab_size 1000000000000000 is more than any model has: 16777216 at most"),
    ({"vocab_size": 10**7}, "model.embed_tokens.weight is .*, and by config.json "),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000 is more than any model has: 4096 at most"),
    ({"rope_scaling": 0}, "rope_scaling 0 is no object"),
    ({"rope_theta": 10**400}, "rope_theta 1000.* is no model's"),
    ({"rope_theta": 1.0}, "rope_theta 1.0 is no number above 1"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5 is not supported"),
    ({"rope_scaling": "yarn"}, "rope_scaling 'yarn' is no object"),
    ({"rope_scaling": {"rope_type": "linear"}}, "has no 'factor'"),
    ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "factor '2' is no number"),
    ({"num_key_value_heads": 3}, "heads must be a multiple of kv_heads"),
    ({"model_type": None}, "model_type None is none of llama"),
]


@pytest.mark.parametrize(("change", "said"), CONFIGS, ids=str)
def test_a_configuration_that_describes_no_model_is_one_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    edit(exported(tmp_path), **change)
    with pytest.raises(ValueError, match=f"config.json: {said}") as raised:
        load_hf(tmp_path)
    assert "\n" not in str(raised.value)


YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5e5}
BY_KIND = [
    ({"full_attention": YARN}, True),
    ({"full_attention": YARN, "sliding_attention": {**YARN, "beta_fast": None}}, True),
    ({"full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}, False),
    ({"full_attention": YARN, "linear_attention": YARN}, False),
    ({"sliding_attention": YARN}, False),
    ({"full_attention": YARN, "rope_theta": 1e4}, False),
]


@pytest.mark.parametrize(("rope", "agree"), BY_KIND, ids=str)
def test_positions_said_for_each_kind_of_layer(rope: dict[str, Any], agree: bool, tmp_path: Path) -> None:
    edit(exported(tmp_path), rope_parameters=rope, rope_scaling=None, rope_theta=None)
    if not agree:
        with pytest.raises(
            ValueError, match="config.json: rope_parameters of .* is not supported: it must be one for all"
        ):
            load_hf(tmp_path)
        return
    by_kind = load_hf(tmp_path)
    edit(tmp_path, rope_parameters=YARN)
    assert by_kind.config == load_hf(tmp_path).config
    assert by_kind.config.rope_theta == 5e5 and isinstance(by_kind.config.rope_scaling, Yarn)


NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, 2, 8, 32, 10**15, 10**400, 1.0, 1e-300, -1])
WORDS = st.sampled_from(
    ["llama", "qwen3", "yarn", "llama3", "linear", "silu", "full_attention", "sliding_attention", ""]
)
ROPES = ("rope_type", "type", "factor", "rope_theta", "low_freq_factor", "high_freq_factor", "beta_slow", "beta_fast")
ROPES += ("original_max_position_embeddings", "mscale", "partial_rotary_factor", "full_attention", "sliding_attention")
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(ROPES) | st.text(max_size=3), inner),
    max_leaves=8,
)
KEYS = (*SIZES, *FLAGS, *LISTS, *ROPE, *ABSENT, "model_type", "rope_theta", "rms_norm_eps", "sliding_window")
KEYS += ("max_window_layers", "router_aux_loss_coef", "num_experts", "num_local_experts", "num_experts_per_tok")
KEYS += ("moe_intermediate_size", "shared_expert_intermediate_size", "decoder_sparse_step")
SMALL = dict.fromkeys(KEYS[:6], 32) | {"num_attention_heads": 4, "num_hidden_layers": 2, "num_experts": 4}
SMALL |= {"num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
SMALL |= {"shared_expert_intermediate_size": 16, "sliding_window": 8, "use_sliding_window": False}


@settings(deadline=None, max_examples=400, derandomize=True)
@given(st.sampled_from(sorted(FAMILIES)), st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
def test_any_json_is_a_model_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, family: str, changes: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any_json"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": family, **SMALL, **changes}))
    try:
        shape, said = config_of(folder), ""
    except ValueError as error:
        shape, said = None, str(error)
    assert not any(word in said for word in ("\n", "Value error", ": :")) and len(said) < len(str(folder)) + 400
    if shape and shape.layers <= 8:
        with torch.device("meta"):
            Decoder(shape)


def test_a_deep_configuration_is_one_line(tmp_path: Path) -> None:
    (exported(tmp_path) / "config.json").write_text("[" * 100_000)
    assert not is_hugging_face(tmp_path)
    with pytest.raises(ValueError, match="config.json: not JSON: .*recursion"):
        load_hf(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="tokenizer_config.json: not JSON: .*recursion"):
        Tokenizer.adopt(tmp_path)


def replaced(old: str, new: str, content: bytes = b"") -> Callable[[Path], object]:
    """A folder that has another file in place of one."""

    def change(folder: Path) -> None:
        (folder / old).unlink()
        (folder / new).write_bytes(content)

    return change


def emptied(*names: str) -> Callable[[Path], object]:
    """A folder that holds these empty files alone."""

    def change(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        for name in names:
            (folder / name).touch()

    return change


def first_shard_gone(folder: Path) -> None:
    save_hf(toy_model(), toy_tokenizer(), folder, torch.float32, shard_bytes=50_000)
    (folder / "model-00001-of-00002.safetensors").unlink()


NORM = "model.norm.weight"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle": (replaced(WEIGHTS, "pytorch_model.bin"), "has pytorch_model.bin and no safetensors; .*save_pretrained"),
    "pickled shards": (replaced(WEIGHTS, "pytorch_model-00001-of-00002.bin"), "pickles are not read"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "model.safetensors: no such file"),
    "an adapter": (
        emptied("adapter_config.json"),
        "config.json: no such file; .* is an adapter: `make merge MODEL=.* ADAPTER=",
    ),
    "GGUF": (emptied("model.Q4.gguf"), "holds GGUF, which is not read"),
    "a data set": (emptied("dataset_info.json", "state.json"), "is a data set that save_to_disk"),
    "a pointer": (replaced(WEIGHTS, WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid 1\n"), "`git lfs pull`"),
    "cut off": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]),
        "model.safetensors: cannot be read: .*download it again",
    ),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "model.safetensors: cannot be read: .*download it again"),
    "an index of nothing": (replaced(WEIGHTS, INDEX, b'{"weight_map": {}}'), "has no weight_map"),
    "an index without": (replaced(WEIGHTS, INDEX, b"{}"), "has no weight_map of files by tensor"),
    "an index of numbers": (replaced(WEIGHTS, INDEX, b'{"weight_map": {"a": 1}}'), "has no weight_map"),
    "a shard less": (first_shard_gone, "model-00001-of-00002.safetensors: no such file, and its index names it"),
    "another shape": (
        lambda f: change_weights(f, lambda w: w.update({"model.norm.weight": torch.ones(31)})),
        r"does not fit its config.json: model.norm.weight is \(31,\), and by config.json \(32,\)",
    ),
    "a tensor less": (
        lambda f: change_weights(f, lambda w: w.pop("model.norm.weight")),
        "misses 1 weights such as model.norm",
    ),
    "another tensor": (
        lambda f: change_weights(f, lambda w: w.update({"visual.weight": torch.ones(3)})),
        "has unknown 1 weights such as visual.weight",
    ),
    "integers": (
        lambda f: change_weights(f, lambda w: w.update({NORM: torch.ones(32, dtype=torch.int8)})),
        "model.safetensors: model.norm.weight is int8, and weights are floating-point numbers",
    ),
    "flags": (
        lambda f: change_weights(f, lambda w: w.update({NORM: torch.ones(32, dtype=torch.bool)})),
        "model.norm.weight is bool",
    ),
    "no number": (
        lambda f: change_weights(f, lambda w: w[NORM].__setitem__(3, torch.nan)),
        "model.safetensors: model.norm.weight has entries that are NaN or infinite",
    ),
    "beyond float32": (
        lambda f: change_weights(f, lambda w: w.update({NORM: torch.full((32,), 1e300, dtype=torch.float64)})),
        "model.norm.weight has entries that are NaN or infinite",
    ),
    "one of ours": (
        lambda f: save_model(f, toy_model(), toy_tokenizer()),
        "a model of this project, not of Hugging Face: `make export MODEL=",
    ),
}


@pytest.mark.parametrize("fault", FOLDERS)
def test_a_folder_that_is_no_model_says_what_to_do(fault: str, tmp_path: Path) -> None:
    change, said = FOLDERS[fault]
    change(exported(tmp_path))
    with pytest.raises(ValueError, match=said) as raised:
        load_hf(tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_a_model_of_hugging_face_is_none_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="config.json: a Hugging Face model: begin with it by checkpoint.folder"):
        load_model(exported(tmp_path))


def test_a_name_of_the_hub_says_how_to_bring_it() -> None:
    with pytest.raises(ValueError, match=r"`hf download HuggingFaceTB/SmolLM2-135M --local-dir models/"):
        load_hf(Path("HuggingFaceTB/SmolLM2-135M"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_entry_that_is_no_finite_number_is_seen_anywhere(dtype: torch.dtype) -> None:
    assert is_finite(torch.zeros(0, 4, dtype=dtype)) and is_finite(torch.ones((), dtype=dtype))
    for entry in (torch.nan, torch.inf, -torch.inf):
        for place in range(40):
            weight = torch.ones(40, dtype=dtype)
            assert is_finite(weight)
            weight[place] = entry
            assert not is_finite(weight), (entry, place)


def test_looking_for_one_takes_no_memory() -> None:
    weight = torch.ones(1 << 16)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        cast("x", weight, torch.float32)
    assert max(event.self_cpu_memory_usage for event in seen.key_averages()) < 1 << 12

"""GGUF files by readers of others: the library gguf gives every tensor back, transformers the logits and the ids."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from flows.cli.export import main
from lm.checkpoint import save_model
from lm.feed_forwards import Experts
from lm.gguf.export import BLOCK, FORMATS, Format, in_pairs, save_gguf
from lm.gguf.vocabulary import CONTROL, UNUSED, name_of_words
from lm.hugging_face.export import save_hf
from lm.hugging_face.load import resize_token_embeddings
from lm.hugging_face.provenance import digest_of, read_provenance, sha256_of
from lm.linears import LoRA
from lm.mixers import SlidingWindow
from lm.model import Decoder
from lm.norms import LayerNorm
from lm.rope import Linear
from lm.tokenizer import Tokenizer
from tasks.tokenize.methods.bpe import train
from tests.lm.models import other_tokenizer, toy_model, toy_tokenizer
from tests.run_main import run_main

TEXT = "The cat sat on the mat. 12 + 34 = 46, isn't it?\n\n  def f(x):\n\treturn x\n\N{GREEK SMALL LETTER ALPHA} \N{EURO SIGN}"
TOKENIZER = Tokenizer(train(iter([TEXT] * 3), 300, 1 << 20))
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"qk_norm": False},
    "llama-tied-one-head": {"qk_norm": False, "tied": True, "kv_heads": 1},
    "llama-wide-heads": {"qk_norm": False, "head_width": 24, "tied": False},
    "qwen2": {"qk_norm": False, "qkv_bias": True, "tied": False},
    "qwen3": {"head_width": 128},
    "qwen3-narrow": {"head_width": 16, "tied": False},
}


def model_of(name: str, **more: Any) -> Decoder:
    """A model of this shape, whose norms and biases are away from where they begin."""
    shape = {"vocab_size": TOKENIZER.vocab_size, "width": 64, "ffn_width": 96, "context": 64, "rope_theta": 5e4}
    model = toy_model(seed=3, **{**shape, **SHAPES[name], **more}).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * (0.2 if weight.ndim == 1 else 0.1))
    return model


def read(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, np.ndarray]]]:
    """(fields, of each tensor its kind and what it comes to) of a file, by the reader of gguf."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {t.name: (t.tensor_type.name, gguf.dequantize(t.data, t.tensor_type)) for t in reader.tensors}
    return fields, tensors


def expected(model: Decoder) -> dict[str, np.ndarray]:
    """Every weight by llama.cpp's names, and in its order of rows."""
    inner = {
        "attention.query": "attn_q", "attention.key": "attn_k", "attention.value": "attn_v", "attention.output": "attn_output",
        "attention.query_norm": "attn_q_norm", "attention.key_norm": "attn_k_norm", "attention_norm": "attn_norm",
        "ffn.gate": "ffn_gate", "ffn.up": "ffn_up", "ffn.down": "ffn_down", "ffn_norm": "ffn_norm",
    }  # fmt: skip
    outer = {"embedding": "token_embd", "norm": "output_norm", "head": "output"}
    found = {}
    for name, weight in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if module in outer:
            found[f"{outer[module]}.{kind}"] = weight.numpy()
            continue
        _, layer, rest = module.split(".", 2)
        heads = {"attention.query": model.config.heads, "attention.key": model.config.kv_heads}.get(rest)
        if heads and not (model.config.qk_norm or model.config.qkv_bias):
            halves = weight.view(heads, 2, model.config.head_dim // 2, -1)
            # of a head of 4 rows: 0, 2, 1, 3
            weight = torch.stack((halves[:, 0], halves[:, 1]), 2).reshape(weight.shape)
        found[f"blk.{layer}.{inner[rest]}.{kind}"] = weight.numpy()
    return found


def steps(weight: np.ndarray, levels: int) -> np.ndarray:
    """Of each entry the step of its block: its largest entry over so many levels."""
    blocks = np.abs(weight.reshape(-1, BLOCK))
    return np.repeat(blocks.max(1) / levels, BLOCK).reshape(weight.shape)


@pytest.mark.parametrize("chosen", FORMATS)
@pytest.mark.parametrize("name", SHAPES)
def test_the_library_gguf_reads_every_tensor_back(name: str, chosen: Format, tmp_path: Path) -> None:
    model = model_of(name)
    assert save_gguf(model, TOKENIZER, tmp_path / "m.gguf", chosen) == []
    fields, tensors = read(tmp_path / "m.gguf")
    wanted = expected(model)
    assert set(tensors) == set(wanted)
    for place, (kind, found) in tensors.items():
        weight = wanted[place]
        if weight.ndim == 1:
            assert kind == "F32" and np.array_equal(found, weight)
        elif kind == "F16":
            assert chosen == "f16" and np.array_equal(found, weight.astype(np.float16).astype(np.float32))
        else:
            table = place in ("token_embd.weight", "output.weight")
            assert kind == ("Q8_0" if table else chosen.upper())
            # half a step, and at the end of the range of 4 bits a whole one, beside the rounding of the scale to 16 bits
            step = steps(weight, 127 if kind == "Q8_0" else 8)
            most = 0.5 * step if kind == "Q8_0" else np.where(np.abs(weight) > 7 * step, step, 0.5 * step)
            assert (np.abs(found - weight) <= most + np.abs(weight) * 2**-10 + 1e-6).all()
            assert np.abs(found - weight).max() > 0
    architecture = name.partition("-")[0]
    assert (
        fields["general.architecture"] == architecture
        and fields["general.file_type"] == {"f16": 1, "q8_0": 7, "q4_0": 2}[chosen]
    )
    config = model.config
    assert {key.partition(".")[2]: value for key, value in fields.items() if key.startswith(f"{architecture}.")} == {
        "vocab_size": config.vocab_size, "context_length": 64, "embedding_length": 64, "block_count": 2, "feed_forward_length": 96,
        "attention.head_count": 4, "attention.head_count_kv": config.kv_heads, "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim, "rope.dimension_count": config.head_dim,
        "rope.freq_base": 5e4, "attention.layer_norm_rms_epsilon": pytest.approx(config.norm_eps),
    }  # fmt: skip


def by_transformers(path: Path, config: Any = None) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, config=config
    ).eval()


@pytest.mark.parametrize("chosen", FORMATS)
@pytest.mark.parametrize("name", SHAPES)
def test_transformers_computes_the_same_logits(name: str, chosen: Format, tmp_path: Path) -> None:
    """Of the weights as the file has them, which the library gguf gives."""
    model, path = model_of(name), tmp_path / "m.gguf"
    save_gguf(model, TOKENIZER, path, chosen)
    tensors = read(path)[1]
    kept = model_of(name)
    for place, weight in expected(kept).items():
        ours = next(n for n, w in expected_names(kept).items() if w == place)
        rows = torch.from_numpy(tensors[place][1].copy())
        heads = {"attn_q": kept.config.heads, "attn_k": kept.config.kv_heads}.get(place.split(".")[-2])
        if heads and name.startswith("llama"):
            rows = rows.reshape(heads, -1, 2, rows.shape[-1]).transpose(1, 2).reshape(weight.shape)
        kept.get_parameter(ours).data.copy_(rows)
    config = None
    if kept.config.qk_norm and kept.config.head_dim != 128:  # transformers reads no key_length for qwen3, and takes 128
        config = transformers.AutoConfig.from_pretrained(tmp_path, gguf_file=path.name)
        config.head_dim = kept.config.head_dim
    loaded = by_transformers(path, config)
    ids = torch.randint(5, TOKENIZER.vocab_size, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():  # fp32 with sums in another order; logits are of the order of 1 to 10
        torch.testing.assert_close(loaded(ids).logits, kept(ids), rtol=0, atol=1e-4)
        # 8 and 4 bits move them, and 16 hardly
        far = (kept(ids) - model(ids)).abs().max()
    assert far < {"f16": 0.05, "q8_0": 0.5, "q4_0": 20}[chosen] and far > 0


def expected_names(model: Decoder) -> dict[str, str]:
    """llama.cpp's name of each weight."""
    return dict(zip(model.state_dict(), expected(model), strict=True))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("tokenizer") / "m.gguf"
    save_gguf(model_of("qwen3", vocab_size=TOKENIZER.vocab_size + 7), TOKENIZER, path, "f16")
    return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("theca 1234'\n\t"), max_size=60))
def test_transformers_reads_texts_as_the_same_ids(theirs: Any, text: str) -> None:
    if TOKENIZER.spelled(text):
        return  # a text here, the token there
    ids = TOKENIZER.encode(text)
    assert theirs(text, add_special_tokens=False).input_ids == theirs(text).input_ids == ids
    assert theirs.decode(ids, clean_up_tokenization_spaces=False) == TOKENIZER.decode(ids)


def test_conversations_and_special_tokens_are_those_of_the_model(theirs: Any, tmp_path: Path) -> None:
    asked = [{"role": "system", "content": "short"}, {"role": "user", "content": "the cat"}]
    written = TOKENIZER.template.render(asked, awaiting=True).text
    assert (
        theirs.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        == TOKENIZER.encode_written(written)[0]
    )
    assert (theirs.eos_token_id, theirs.pad_token_id) == (TOKENIZER.end_id, TOKENIZER.pad_id)
    save_gguf(model_of("qwen3", vocab_size=TOKENIZER.vocab_size + 7), TOKENIZER, tmp_path / "m.gguf", "f16")
    fields, _ = read(tmp_path / "m.gguf")
    kinds, tokens = fields["tokenizer.ggml.token_type"], fields["tokenizer.ggml.tokens"]
    assert len(kinds) == len(tokens) == TOKENIZER.vocab_size + 7 and kinds[-7:] == [UNUSED] * 7
    assert [tokens[n] for n, kind in enumerate(kinds) if kind == CONTROL] == [TOKENIZER.token(n) for n in range(5)]
    assert fields["tokenizer.ggml.pre"] == "qwen2" and not fields["tokenizer.ggml.add_bos_token"]


def test_a_tokenizer_of_gpt_2_and_its_first_token(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other_tokenizer().save(str(tmp_path / "other" / "tokenizer.json"))
    tokenizer = Tokenizer.adopt(tmp_path / "other")
    save_gguf(model_of("qwen3", vocab_size=tokenizer.vocab_size), tokenizer, tmp_path / "m.gguf", "q8_0")
    fields, _ = read(tmp_path / "m.gguf")
    assert fields["tokenizer.ggml.pre"] == "gpt-2" and fields["tokenizer.ggml.add_bos_token"]
    assert fields["tokenizer.ggml.bos_token_id"] == tokenizer.before[0]
    found = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in (TEXT, "the cat's 1234 mats", " a  b\n"):
        assert found(text, add_special_tokens=False).input_ids == tokenizer.encode(text)


def test_rows_in_pairs_by_hand() -> None:
    assert in_pairs(torch.arange(8.0)[:, None], 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_rows_that_no_block_divides_keep_16_bits_and_it_is_said(tmp_path: Path) -> None:
    wider = save_gguf(model_of("qwen3", ffn_width=80), TOKENIZER, tmp_path / "m.gguf", "q4_0")
    assert wider == [f"model.layers.{n}.mlp.down_proj.weight" for n in (0, 1)]
    tensors = read(tmp_path / "m.gguf")[1]
    assert {kind for place, (kind, _) in tensors.items() if "ffn_down" in place} == {"F16"}


def test_the_same_model_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_gguf(model_of("llama"), TOKENIZER, tmp_path / name / "m.gguf", "q8_0")
    assert (tmp_path / "a" / "m.gguf").read_bytes() == (tmp_path / "b" / "m.gguf").read_bytes()


def test_the_modelfile_writes_a_turn_as_the_template_does(tmp_path: Path) -> None:
    """By hand, as Ollama fills it in: {{ if .System }} and the fields."""
    save_gguf(model_of("llama"), TOKENIZER, tmp_path / "m.gguf", "f16")
    text = (tmp_path / "Modelfile").read_text()
    head, _, template = text.partition("TEMPLATE ")
    assert head == "FROM ./m.gguf\nPARAMETER num_ctx 64\nPARAMETER stop <|end|>\nPARAMETER stop <|endoftext|>\n"
    template = template.strip().strip('"').replace("{{ if .System }}", "").replace("{{ end }}", "")
    filled = template.replace("{{ .System }}", "short").replace("{{ .Prompt }}", "hi").replace("{{ .Response }}", "yes")
    said = [
        {"role": role, "content": text} for role, text in (("system", "short"), ("user", "hi"), ("assistant", "yes"))
    ]
    assert filled == TOKENIZER.template.render(said).text


def pair(**changes: Any) -> Tokenizer:
    """TOKENIZER with something else in its file."""
    described = json.loads(TOKENIZER.to_json())
    for key, value in changes.items():
        (described["model"] if key in described["model"] else described)[key] = value
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(described)))


def adapted() -> Decoder:
    model = model_of("llama")
    model.reparametrize(LoRA(rank=2))
    return model


def overflowing() -> Decoder:
    model = model_of("llama")
    model.embedding.weight.data[3, 4] = 1e5
    return model


@pytest.mark.parametrize(
    ("model", "tokenizer", "said"),
    [
        (lambda: model_of("llama", norm=LayerNorm()), TOKENIZER, "layer_norm"),
        (lambda: model_of("qwen3", mixer=SlidingWindow(window=8)), TOKENIZER, "sliding_window is not written to GGUF"),
        (lambda: model_of("qwen3", feed_forward=Experts()), TOKENIZER, "experts are not written to GGUF"),
        (lambda: model_of("qwen3", qkv_bias=True), TOKENIZER, "both qk_norm and qkv_bias"),
        (lambda: model_of("llama", rope_scaling=Linear(factor=2.0)), TOKENIZER, "rope_scaling linear is not written"),
        (adapted, TOKENIZER, "an adapter beside its weights: merge it first"),
        (overflowing, TOKENIZER, "model.embed_tokens.weight has an entry of 100000, which F16 has not"),
        (lambda: model_of("llama"), toy_tokenizer(), "without merges"),
        (lambda: model_of("llama"), pair(normalizer={"type": "NFC"}), "a normalizer, and this one has NFC"),
        (lambda: model_of("llama"), pair(byte_fallback=True), "byte_fallback True"),
        (lambda: model_of("llama"), pair(pre_tokenizer={"type": "Whitespace"}), "no name for the way"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_gguf_cannot_say_is_one_line_and_nothing_written(
    model: Any, tokenizer: Tokenizer, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        save_gguf(model(), tokenizer, tmp_path / "m.gguf", "f16")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_only_what_is_known_by_name_is_a_division_into_words() -> None:
    assert name_of_words(json.loads(pre_tokenizers.ByteLevel(add_prefix_space=False).__getstate__())) == "gpt-2"
    for other in (
        None,
        {"type": "Whitespace"},
        json.loads(pre_tokenizers.ByteLevel(add_prefix_space=True).__getstate__()),
    ):
        with pytest.raises(ValueError, match="no name for the way"):
            name_of_words(other)


def test_the_command_writes_what_the_name_of_the_target_says(tmp_path: Path) -> None:
    model = model_of("qwen3", ffn_width=80)
    (tmp_path / "ours").mkdir()
    save_model(tmp_path / "ours", model, TOKENIZER)
    save_hf(resize_token_embeddings(model, TOKENIZER.vocab_size), TOKENIZER, tmp_path / "theirs", torch.float32)
    sizes = {}
    for folder, chosen in (("ours", "f16"), ("ours", "q4_0"), ("theirs", "q4_0")):
        target = tmp_path / f"{folder}-{chosen}" / "m.gguf"
        done = run_main(main, tmp_path / folder, target, "--format", chosen)
        assert (done.returncode, done.stderr) == (0, "") and "a Modelfile beside it" in done.stdout
        assert ("2 matrices have 16 bits" in done.stdout) == (chosen == "q4_0")
        sizes[folder, chosen] = target.stat().st_size
        assert read_provenance(target.parent) == {"m.gguf": (sha256_of(target), digest_of(tmp_path / folder))}
    told = json.loads(run_main(main, tmp_path / "ours", target, "--format", "q4_0", "--json").stdout)
    assert (told["target"], told["bytes"], len(told["wider"])) == (str(target), target.stat().st_size, 2)
    assert sizes["ours", "q4_0"] < 0.7 * sizes["ours", "f16"]
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    for words, said in (
        (
            (tmp_path / "ours", tmp_path / "folder", "--format", "q8_0"),
            "--format goes with a target that ends in .gguf",
        ),
        ((tmp_path / "ours", tmp_path / "m.gguf", "--dtype", "float16"), "--dtype with a folder"),
        ((tmp_path / "adapter", tmp_path / "m.gguf"), "make merge MODEL=<its model>"),
        ((tmp_path / "none", tmp_path / "m.gguf"), "no such file"),
    ):
        done = run_main(main, *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and said in done.stderr, (
            done.stderr
        )

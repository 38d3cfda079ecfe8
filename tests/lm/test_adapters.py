"""Adapters in the format of the library peft, both ways and by peft itself, and `make merge`."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from flows.cli.merge import main
from lm.averages import Ema
from lm.checkpoint import load_model, save_model
from lm.config import Config
from lm.hugging_face.adapters import read_adapter
from lm.hugging_face.export import save_hf
from lm.hugging_face.merge import merge
from lm.linears import AdaLoRA, DoRA, LoRA, QLoRA, VeRA
from lm.optimizers import AdamW
from lm.schedules import Cosine
from lm.training.loop import train
from lm.training.recipe import Recipe
from tests.lm.models import toy_model, toy_tokenizer
from tests.lm.test_linears import batch_of
from tests.lm.test_training import Recorder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
METHODS = [
    LoRA(keep=True, ranks={"ffn": 3}),
    LoRA(keep=True, matrices=["query", "down"], scaling="root_rank", rank=4, alpha=6.5),
    DoRA(keep=True, matrices=["attention"]),
    QLoRA(keep=True),
    VeRA(keep=True, rank=24),
    VeRA(keep=True, matrices=["key", "ffn.down"], rank=5, seed=3),
]
# Those whose adapter is another sum than training ended with
CONVERTED = [
    LoRA(keep=True, start="pissa", rank=4, ranks={"ffn": 3}),
    LoRA(keep=True, start="pissa", rank=20),
    LoRA(keep=True, start="olora", rank=4, scaling="root_rank", trained="up"),
    DoRA(keep=True, start="pissa", rank=5),
    QLoRA(keep=True, start="pissa", alpha=3.5),
    AdaLoRA(keep=True, rank=1, first_rank=2, cut_until=2, alpha=64.0),
]
# fp32 products in another order, of weights of 0.02 to 0.1
CLOSE = {"rtol": 0, "atol": 1e-6}


def trained(folder: Path, method: Config, **shape: Any) -> Path:
    """The folder of a toy after four steps, its adapter beside it."""
    model = toy_model(seed=1, **shape)
    recipe = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema(), linear=method)
    train(model, recipe, 4, lambda step: batch_of(model), Recorder(folder / "scratch"))
    (folder / "made").mkdir(parents=True)
    save_model(folder / "made", model, toy_tokenizer())
    return folder / "made"


def start(folder: Path, **shape: Any) -> Path:
    """The folder of the toy before its first step."""
    folder.mkdir(parents=True)
    save_model(folder, toy_model(seed=1, **shape), toy_tokenizer())
    return folder


def by_peft(adapter: Path, model: Path) -> dict[str, Tensor]:
    """The weights of a Hugging Face folder with an adapter merged, by peft."""
    read = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter)
    return read.merge_and_unload().state_dict()


def exported(folder: Path, target: Path, **how: Any) -> dict[str, Tensor]:
    save_hf(*load_model(folder), target, torch.float32, **how)
    return {name: t for file in target.glob("model*.safetensors") for name, t in load_file(file).items()}


@pytest.mark.parametrize("method", METHODS + CONVERTED, ids=lambda method: f"{method.name}-{method.rank}")
def test_what_is_kept_is_what_peft_reads(method: Config, tmp_path: Path) -> None:
    made = trained(tmp_path, method)
    base = toy_model(seed=1)
    if isinstance(method, QLoRA):  # its adapter belongs to the matrices that it rounded
        base.reparametrize(method)
        base.merge()
    (tmp_path / "base").mkdir()
    save_model(tmp_path / "base", base, toy_tokenizer())
    here = exported(made, tmp_path / "here")
    exported(tmp_path / "base", tmp_path / "there")
    theirs = by_peft(made, tmp_path / "there")
    assert theirs.keys() >= here.keys()
    for name, weight in here.items():
        torch.testing.assert_close(theirs[name], weight, **CLOSE, msg=name)
    before, after = load_file(tmp_path / "base" / "model.safetensors"), load_file(made / "model.safetensors")
    moved = {name for name, weight in before.items() if (weight - after[name]).abs().max() > CLOSE["atol"]}
    layers = merge(tmp_path / "base", made, tmp_path / "merged")
    assert 1 < len(moved) <= layers == len(read_adapter(made)) <= 14
    for file in ("config.json", "tokenizer.json"):
        assert (tmp_path / "merged" / file).read_bytes() == (made / file).read_bytes()
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    for name, weight in after.items():
        if method in METHODS:  # to the bit: training ends with the same product of the same numbers
            assert torch.equal(merged[name], weight), name
        torch.testing.assert_close(merged[name], weight, **CLOSE, msg=name)


def test_nothing_is_kept_that_was_not_asked_for(tmp_path: Path) -> None:
    names = {path.name for path in trained(tmp_path / "a", LoRA()).iterdir()}
    assert names == {path.name for path in start(tmp_path / "b").iterdir()}
    kept = {path.name for path in trained(tmp_path / "c", LoRA(keep=True)).iterdir()}
    assert kept == names | {CONFIG, WEIGHTS}


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 40_000])
def test_a_model_of_hugging_face_stays_one(shard_bytes: int, tmp_path: Path) -> None:
    adapter = trained(tmp_path, DoRA(keep=True))
    exported(start(tmp_path / "start"), tmp_path / "theirs", shard_bytes=shard_bytes)
    wanted = by_peft(adapter, tmp_path / "theirs")
    (tmp_path / "theirs" / "adapter_config.json").write_text("{}")  # of some other adapter
    (tmp_path / "theirs" / "chat_template.jinja").write_text("its own")
    merge(tmp_path / "theirs", adapter, tmp_path / "merged")
    there, here = ({path.name for path in (tmp_path / name).iterdir()} for name in ("theirs", "merged"))
    assert here == there - {CONFIG} and (tmp_path / "merged" / "chat_template.jinja").read_text() == "its own"
    found = {n: t for path in (tmp_path / "merged").glob("*.safetensors") for n, t in load_file(path).items()}
    for name, weight in found.items():
        torch.testing.assert_close(wanted[name], weight, **CLOSE, msg=name)


def test_a_part_without_a_name_at_hugging_face_keeps_ours(tmp_path: Path) -> None:
    shape = {"feed_forward": {"name": "relu_squared"}}
    made, base = trained(tmp_path, LoRA(keep=True), **shape), start(tmp_path / "start", **shape)
    assert "blocks.1.ffn.up" in json.loads((made / CONFIG).read_text())["target_modules"]
    merge(base, made, tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()


QUERY, UP = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"


def peft_folder(folder: Path, dtype: torch.dtype = torch.float32, **config: Any) -> dict[str, Tensor]:
    """An adapter of two layers of the toy as peft would save it."""
    folder.mkdir(exist_ok=True)
    draw = torch.Generator().manual_seed(0)
    shapes = {
        f"{QUERY}.lora_A.weight": (2, 32), f"{QUERY}.lora_B.weight": (32, 2),
        f"{UP}.lora_A.weight": (4, 32), f"{UP}.lora_B.weight": (48, 4),
    }  # fmt: skip
    tensors = {f"base_model.model.{n}": torch.randn(s, generator=draw).to(dtype) for n, s in shapes.items()}
    save_file(tensors, folder / WEIGHTS)
    described = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"], **config}
    (folder / CONFIG).write_text(json.dumps({"rank_pattern": {r"layers\.1\.mlp\.up_proj": 4}, **described}))
    return tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_peft_writes_is_merged(dtype: torch.dtype, tmp_path: Path) -> None:
    """Ranks and alphas by pattern, the scale of rsLoRA, and a model and an adapter in bf16, which are added in fp32."""
    tensors = peft_folder(tmp_path / "adapter", dtype, use_rslora=True, alpha_pattern={"q_proj": 3}, lora_dropout=0.1)
    theirs = tmp_path / "theirs"
    save_hf(*load_model(start(tmp_path / "start")), theirs, dtype)
    merge(theirs, tmp_path / "adapter", tmp_path / "merged")
    before, after = (load_file(folder / "model.safetensors") for folder in (theirs, tmp_path / "merged"))
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed == {f"{QUERY}.weight", f"{UP}.weight"}
    for layer, scale in ((QUERY, 3 / math.sqrt(2)), (UP, 8 / math.sqrt(4))):
        down, up = (tensors[f"base_model.model.{layer}.lora_{part}.weight"].float() for part in "AB")
        wanted = (before[f"{layer}.weight"].float() + scale * up @ down).to(dtype)
        rounding = 1e-5 if dtype == torch.float32 else 2**-7  # a sum near the middle of two may be rounded to either
        torch.testing.assert_close(after[f"{layer}.weight"], wanted, rtol=rounding, atol=1e-5)


@pytest.mark.parametrize("kind", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_what_peft_saves_is_merged_as_peft_merges_it(kind: dict[str, Any], tmp_path: Path) -> None:
    exported(start(tmp_path / "start"), tmp_path / "theirs")
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 2}, init_lora_weights=False, **kind
    )  # fmt: skip
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "theirs"), config)
    model.save_pretrained(tmp_path / "adapter")
    merge(tmp_path / "theirs", tmp_path / "adapter", tmp_path / "merged")
    wanted, found = model.merge_and_unload().state_dict(), load_file(tmp_path / "merged" / "model.safetensors")
    before = load_file(tmp_path / "theirs" / "model.safetensors")
    assert sum(not torch.equal(weight, before[name]) for name, weight in found.items()) == 4
    for name, weight in found.items():
        torch.testing.assert_close(weight, wanted[name], **CLOSE, msg=name)


EVERY_MATRIX = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    "config",
    [
        peft.VeraConfig(r=6, target_modules=["q_proj", "k_proj", "down_proj"], projection_prng_key=3, init_weights=False),
        peft.AdaLoraConfig(
            init_r=4, target_r=2, lora_alpha=5, total_step=9, target_modules=["q_proj", "up_proj"], init_lora_weights=False
        ),
        peft.AdaLoraConfig(
            init_r=4, target_r=2, total_step=9, target_modules=["q_proj", "up_proj"], init_lora_weights=False,
            rank_pattern={
                f"model.layers.{n}.{name}.lora_E": [True, bool(n), False, True]
                for n in (0, 1) for name in ("self_attn.q_proj", "mlp.up_proj")
            },
        ),
    ],
    ids=["vera", "adalora", "adalora-cut"],
)  # fmt: skip
def test_another_kind_that_peft_saves_is_merged_as_peft_merges_it(config: Any, tmp_path: Path) -> None:
    exported(start(tmp_path / "start"), tmp_path / "theirs")
    torch.manual_seed(0)
    pattern, config.rank_pattern = getattr(config, "rank_pattern", None), None
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "theirs"), config)
    if pattern:  # as a run of it leaves them: what has gone is 0, and not saved
        config.rank_pattern = pattern
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_E" in name:
                    key = name.removeprefix("base_model.model.").removesuffix(".default")
                    weight.masked_fill_(~torch.tensor(pattern[key])[:, None], 0.0)
    model.save_pretrained(tmp_path / "adapter")
    merge(tmp_path / "theirs", tmp_path / "adapter", tmp_path / "merged")
    wanted, found = model.merge_and_unload().state_dict(), load_file(tmp_path / "merged" / "model.safetensors")
    before = load_file(tmp_path / "theirs" / "model.safetensors")
    changed_there = sum(not torch.equal(weight, before[name]) for name, weight in found.items())
    assert changed_there == 2 * len(config.target_modules)
    for name, weight in found.items():
        torch.testing.assert_close(weight, wanted[name], rtol=1e-5, atol=1e-5, msg=name)


def changed(key: str, value: Any) -> Callable[[Path], object]:
    return lambda folder: peft_folder(folder, **{key: value})


def tensors_changed(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        tensors = peft_folder(folder)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return apply


A, B = (f"base_model.model.{QUERY}.lora_{part}.weight" for part in "AB")
MODULE = "base_model.model.model.layers.7.self_attn.q_proj"
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), "adapter_config.json: no such file; is .* the folder of an adapter"),
    "no JSON": (lambda f: (f / CONFIG).write_text("{"), "adapter_config.json: not JSON"),
    "another kind": (
        changed("peft_type", "IA3"),
        "peft_type 'IA3' is not supported: only LoRA, DoRA, AdaLoRA and VeRA",
    ),
    "biases": (changed("bias", "all"), "bias 'all' is not supported"),
    "whole modules": (changed("modules_to_save", ["lm_head"]), "modules_to_save .'lm_head'. is not supported"),
    "another base": (changed("init_lora_weights", "pissa"), "init_lora_weights 'pissa' is not supported"),
    "no rank": (changed("r", 0), "r 0 is no number above 0"),
    "no alpha": (changed("lora_alpha", "8"), "lora_alpha '8' is no number above 0"),
    "another rank": (changed("r", 3), r"lora_A \(2, 32\), lora_B \(32, 2\) do not fit each other and the rank 3"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "adapter_model.safetensors: no such file"),
    "a pickle": (
        lambda f: (f / WEIGHTS).rename(f / "adapter_model.bin"),
        "no such file; adapter_model.bin is a pickle, which is not read",
    ),
    "cut off": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]),
        "adapter_model.safetensors: cannot be read",
    ),
    "nothing": (tensors_changed(lambda t: t.clear()), "has no tensors"),
    "half": (tensors_changed(lambda t: t.pop(B)), "has no model.layers.0.self_attn.q_proj.lora_B.weight"),
    "an embedding": (
        tensors_changed(lambda t: t.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(2, 9)})),
        "embed_tokens.lora_embedding_A is no part of a LoRA of a matrix",
    ),
    "a length that is not said": (
        tensors_changed(lambda t: t.update({A.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(32)})),
        "has .*q_proj.lora_magnitude_vector, and adapter_config.json does not say use_dora",
    ),
    "a length that is not there": (changed("use_dora", True), "has no .*lora_magnitude_vector"),
    "not finite": (tensors_changed(lambda t: t[A].fill_(torch.nan)), "q_proj has NaN or infinite entries"),
    "another depth": (
        tensors_changed(lambda t: t.update({f"{MODULE}.lora_A.weight": t[A] + 0, f"{MODULE}.lora_B.weight": t[B] + 0})),
        "has no layer model.layers.7.self_attn.q_proj: it is an adapter of another model",
    ),
    "another width": (
        tensors_changed(lambda t: t.update({A: torch.ones(2, 33)})),
        r"model.layers.0.self_attn.q_proj is \(32, 33\) there and \(32, 32\) in ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_adapter_that_does_not_fit_is_one_line_and_nothing_is_written(fault: str, tmp_path: Path) -> None:
    base, adapter = start(tmp_path / "start"), tmp_path / "adapter"
    peft_folder(adapter)
    assert len(read_adapter(adapter)) == 2
    change, said = FAULTS[fault]
    change(adapter)
    with pytest.raises(ValueError, match=said) as raised:
        merge(base, adapter, tmp_path / "merged")
    assert "\n" not in str(raised.value) and str(adapter) in str(raised.value)
    assert not (tmp_path / "merged").exists()


def kept_of(method: Config, folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """The folder of an adapter of ours with some tensors changed."""
    made = trained(folder, method)
    tensors = load_file(made / WEIGHTS)
    change(tensors)
    save_file(tensors, made / WEIGHTS)
    return made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t.pop("base_model.vera_A"),
            "has no base_model.vera_A and base_model.vera_B: save it again with save_proj",
        ),
        (
            lambda t: t.pop(f"base_model.model.{QUERY}.vera_lambda_d"),
            "has no model.layers.0.self_attn.q_proj.vera_lambda_d",
        ),
        (
            lambda t: t.update({f"base_model.model.{QUERY}.vera_lambda_d": torch.ones(4)}),
            r"q_proj: vera_lambda_d, vera_lambda_b, vera_A and vera_B of \(4,\), \(32,\), \(3, 48\), \(48, 3\) do not fit",
        ),
        (
            lambda t: t.update({f"base_model.model.{QUERY}.vera_lambda_b": torch.ones(31)}),
            r"q_proj is \(31, 32\) there and \(32, 32\) in ",
        ),
        (lambda t: t["base_model.vera_B"].fill_(torch.nan), "has NaN or infinite entries"),
    ],
)
def test_a_vera_that_does_not_fit_is_one_line(change: Any, said: str, tmp_path: Path) -> None:
    made = kept_of(VeRA(keep=True, rank=3), tmp_path, change)
    with pytest.raises(ValueError, match=said) as raised:
        merge(start(tmp_path / "start"), made, tmp_path / "merged")
    assert "\n" not in str(raised.value) and str(made) in str(raised.value) and not (tmp_path / "merged").exists()


def test_an_adalora_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "ADALORA", "init_r": 2}))
    parts = {"lora_A": torch.ones(2, 32), "lora_B": torch.ones(32, 2), "lora_E": torch.ones(2, 1)}
    for changes, said in (
        (
            {"lora_E": torch.ones(3, 1)},
            r"lora_A, lora_B and lora_E of \(2, 32\), \(32, 2\), \(3, 1\) do not fit each other",
        ),
        ({"lora_F": torch.ones(1)}, "lora_F is no part of a AdaLoRA of a matrix"),
        ({}, ""),
    ):
        save_file({f"base_model.model.{QUERY}.{n}": t for n, t in {**parts, **changes}.items()}, tmp_path / WEIGHTS)
        if said:
            with pytest.raises(ValueError, match=said):
                read_adapter(tmp_path)
    (delta,) = read_adapter(tmp_path).values()
    assert delta.scale == 8 / (2 + 1e-5)


def test_folders_that_cannot_be_merged_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter, target = start(tmp_path / "start"), tmp_path / "adapter", tmp_path / "merged"
    peft_folder(adapter)

    def run(*folders: Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["merge", *map(str, folders)])
        return (main(), *capsys.readouterr())

    code, out, err = run(tmp_path / "none", adapter, target)
    assert (code, out) == (2, "") and err.count("\n") == 1 and err.startswith(f"merge: {tmp_path / 'none'}/model.safe")
    description = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**description, "quantization": {"weights": {}}}))
    code, out, err = run(base, adapter, target)
    assert (code, err) == (2, f"merge: {base}: is quantized: merge into the model that it was made of\n")
    (base / "config.json").write_text(json.dumps(description))
    assert run(base, adapter, target) == (0, f"{target}: {base} with 2 matrices changed by {adapter}\n", "")
    before = (target / "model.safetensors").read_bytes()
    assert run(base, adapter, target)[::2] == (2, f"merge: {target}: is there, and not empty: name another folder\n")
    assert (target / "model.safetensors").read_bytes() == before

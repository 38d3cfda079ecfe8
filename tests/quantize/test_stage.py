"""The stage: a folder that dequantizes to nearly its source, is as small as promised, and is the same on every run."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lm.calibration import Calibration, calibration_batches, collect_layer_inputs
from lm.checkpoint import load_model, save_model
from lm.linears import FewBits
from lm.model import Decoder
from lm.problems import Arithmetic
from lm.quantized.state import unpack_state
from lm.training.data.plan import Plan
from tasks.core.log import Log
from tasks.quantize.methods import Gptq, Int8, Rtn
from tasks.quantize.stage import QuantizeConfig, run
from tests.lm.models import toy_model, toy_tokenizer

FILES = ("model.safetensors", "config.json", "tokenizer.json")


def config(method: object, problems: Path, **more: object) -> QuantizeConfig:
    few = Calibration(problems=20, sequences=4, max_new_tokens=6)
    return QuantizeConfig(
        model="distill", method=method, problems=Arithmetic(folder=str(problems)), calibration=few, seed=0, **more
    )


@pytest.fixture
def four(tmp_path: Path) -> QuantizeConfig:
    return config(Rtn(), tmp_path)


def source(data: Path, **changes: Tensor) -> dict[str, Tensor]:
    """What the stage reads, with a model whose parts are of the usual sizes; returns its weights."""
    for folder in ("distill", "quantize", "curriculum", "tokenize"):
        (data / folder).mkdir(parents=True)
    model = toy_model(width=64, ffn_width=128)
    save_model(data / "distill", model, toy_tokenizer())
    state = model.state_dict() | changes
    save_file(state, data / "distill/model.safetensors")
    toy_tokenizer().save(data / "tokenize")
    np.save(data / "tokenize/tokens.npy", np.random.default_rng(0).integers(5, 261, 400).astype(np.uint16))
    pq.write_table(pa.table({"start": [0], "length": [400]}), data / "tokenize/documents.parquet")
    plan = {"step": [0, 0, 1, 1], "sequence": [0, 1, 0, 1], "document": [0] * 4, "offset": [0, 40, 80, 120]}
    pq.write_table(pa.table(plan | {"length": [40] * 4}), data / "curriculum/plan.parquet")
    return state


def plan(data: Path) -> Plan:
    return Plan(data / "curriculum", data / "tokenize")


def read_back(data: Path) -> dict[str, Tensor]:
    description = json.loads((data / "quantize/config.json").read_text())
    assert description["model"]["width"] == 64
    return unpack_state(load_file(data / "quantize/model.safetensors"), description["quantization"])


def test_comes_back_nearly_as_it_was(tmp_path: Path, four: QuantizeConfig) -> None:
    state = source(tmp_path)
    metrics = run(four, tmp_path, Log())
    restored = read_back(tmp_path)
    assert set(restored) == set(state)
    assert torch.equal(restored["norm.weight"], state["norm.weight"])
    assert torch.equal(restored["embedding.weight"], Int8()(state["embedding.weight"]).dequantize())
    assert torch.equal(restored["blocks.0.ffn.up.weight"], Rtn()(state["blocks.0.ffn.up.weight"]).dequantize())
    matrices = [name for name, weight in state.items() if weight.ndim == 2]
    lost = sum((restored[name] - state[name]).square().sum() for name in matrices)
    total = sum(state[name].square().sum() for name in matrices)
    assert metrics["relative_squared_error"] == pytest.approx((lost / total).item(), rel=1e-4)
    assert 0 < metrics["relative_squared_error"] < 0.0065
    model, tokenizer = load_model(tmp_path / "quantize")
    assert torch.equal(model.state_dict()["blocks.0.ffn.up.weight"], restored["blocks.0.ffn.up.weight"])
    assert tokenizer.vocab_size == toy_tokenizer().vocab_size


def test_sizes(tmp_path: Path, four: QuantizeConfig) -> None:
    state = source(tmp_path)
    metrics = run(four, tmp_path, Log())
    # 261 rows of 64 bytes and a 2-byte scale; two blocks of weights of 5 bits; what is left in float32
    blocks = sum(w.numel() for name, w in state.items() if w.ndim == 2 and name != "embedding.weight")
    rest = sum(w.numel() for w in state.values() if w.ndim == 1)
    stored = 261 * 66 + blocks * 5 // 8 + rest * 4
    assert metrics["parameters"] == sum(weight.numel() for weight in state.values()) == 261 * 64 + blocks + rest
    assert metrics["bits_per_weight"] == 8 * stored / metrics["parameters"]
    assert metrics["size_bytes"] == (tmp_path / "quantize/model.safetensors").stat().st_size
    # the header of the file describes each tensor in 100 to 130 bytes
    assert stored < metrics["size_bytes"] < stored + 130 * 3 * len(state)
    assert metrics["ratio"] == metrics["source_size_bytes"] / metrics["size_bytes"] > 3.5


@pytest.mark.parametrize("method", [Rtn(), Gptq()], ids=lambda method: method.name)
def test_the_same_bytes_on_every_run(tmp_path: Path, method: object) -> None:
    for name in ("first", "second"):
        source(tmp_path / name)
        run(config(method, tmp_path), tmp_path / name, Log())
    for file in FILES:
        assert (tmp_path / "first/quantize" / file).read_bytes() == (tmp_path / "second/quantize" / file).read_bytes()


def test_eight_bits_lose_less_and_take_more(tmp_path: Path) -> None:
    results = []
    for method in (Rtn(), Int8()):
        source(tmp_path / method.name)
        results.append(run(config(method, tmp_path), tmp_path / method.name, Log()))
    four, eight = results
    assert eight["relative_squared_error"] < four["relative_squared_error"] and eight["size_bytes"] > four["size_bytes"]


def logits(data: Path, folder: str) -> Tensor:
    ids = torch.randint(5, 261, (8, 40), generator=torch.Generator().manual_seed(1))
    return load_model(data / folder)[0](ids).detach()


def test_calibrated_outputs_are_nearer_than_rounded_ones(tmp_path: Path) -> None:
    lost, metrics = {}, {}
    for method in (Rtn(), Gptq()):
        data = tmp_path / method.name
        source(data)
        metrics[method.name] = run(config(method, tmp_path), data, Log())
        lost[method.name] = (logits(data, "quantize") - logits(data, "distill")).square().mean().item()
    # by 5%: random weights see inputs of no direction, and the embedding's own rounding is in both
    assert lost["gptq"] < lost["rtn"]
    assert metrics["gptq"]["size_bytes"] == metrics["rtn"]["size_bytes"]
    assert metrics["gptq"]["calibration_tokens"] > 4 * 40 + 20 * 5 and metrics["rtn"]["calibration_tokens"] == 0


def test_what_calibrates_is_what_the_layers_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source(tmp_path)
    model, tokenizer = load_model(tmp_path / "distill")
    batches = calibration_batches(
        model,
        tokenizer,
        ["1+1=", "x" * 60],
        plan(tmp_path),
        Calibration(problems=2, sequences=3, max_new_tokens=4),
        0,
        "quantize.calibration",
    )
    tokens = sum(int(mask.sum()) for _, mask in batches)
    assert 3 * 40 + 6 + 1 <= tokens <= 3 * 40 + 6 + 4  # the second prompt does not fit
    assert capsys.readouterr().out.startswith("quantize.calibration: 1 of 2 prompts are left out")
    names = ["blocks.0.attention.query.weight", "blocks.1.ffn.down.weight"]
    inputs = collect_layer_inputs(model, names, batches)
    assert [tuple(inputs[name].rows_NI.shape) for name in names] == [(tokens, 64), (tokens, 128)]
    expected = first_inputs(model, batches[0][0])
    torch.testing.assert_close(inputs[names[0]].rows_NI[: len(expected)], expected)
    assert not any(module._forward_pre_hooks for module in model.modules())


class OnlySft(Arithmetic):
    """Problems of which nobody may see another split."""

    def examples(self, split: str) -> list:
        assert split == "sft", f"asked for {split}"
        return super().examples(split)


def test_calibration_asks_for_no_problem_that_models_are_judged_by(tmp_path: Path) -> None:
    source(tmp_path)
    given = config(Gptq(), tmp_path)
    run(given.model_copy(update={"problems": OnlySft(digits=1)}), tmp_path, Log())


def test_padding_calibrates_nothing_and_every_batch_counts(tmp_path: Path) -> None:
    """Prompts of other lengths are padded to the longest; what calibrates is as many rows as there are real tokens, batch by
    batch what the layer sees of each prompt alone."""
    source(tmp_path)
    model, tokenizer = load_model(tmp_path / "distill")
    prompts = ["1", "x" * 20] * 10  # two batches of at most 16
    calibration = Calibration(problems=20, sequences=0, max_new_tokens=2)
    batches = calibration_batches(model, tokenizer, prompts, plan(tmp_path), calibration, 0, "quantize.calibration")
    assert [len(ids) for ids, _ in batches] == [16, 4]
    for ids, mask in batches:
        for row, (tokens, real) in enumerate(zip(ids, mask, strict=True)):
            prompt = tokenizer.chat(prompts[row])
            assert tokens[: len(prompt)].tolist() == prompt
            assert len(prompt) < int(real.sum()) <= len(prompt) + 2 and real[: int(real.sum())].all()
    name = "blocks.0.attention.query.weight"
    alone = torch.cat(
        [
            first_inputs(model, tokens[real][None])
            for ids, mask in batches
            for tokens, real in zip(ids, mask, strict=True)
        ]
    )
    torch.testing.assert_close(collect_layer_inputs(model, [name], batches)[name].rows_NI, alone)


def test_the_seed_draws_the_answers_that_calibrate(tmp_path: Path) -> None:
    source(tmp_path)
    model, tokenizer = load_model(tmp_path / "distill")
    calibration = Calibration(problems=4, sequences=0, max_new_tokens=6)
    first, again, other = (
        calibration_batches(model, tokenizer, ["1+1="] * 4, plan(tmp_path), calibration, seed, "x")[0][0]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not (first.shape == other.shape and torch.equal(first, other))


def test_later_layers_are_packed_for_what_the_earlier_have_become(tmp_path: Path) -> None:
    """By hand: the second block's inputs are those of a model whose first block is packed already."""
    source(tmp_path)
    given = config(Gptq(), tmp_path)
    run(given, tmp_path, Log())
    model, tokenizer = load_model(tmp_path / "distill")
    prompts = [example.prompt for example in given.problems.examples("sft")]
    batches = calibration_batches(model, tokenizer, prompts, plan(tmp_path), given.calibration, 0, "x")
    packed = read_back(tmp_path)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name == "embedding.weight" or name.startswith("blocks.0."):
                weight.copy_(packed[name])
    name = "blocks.1.attention.query.weight"
    inputs = collect_layer_inputs(model, [name], batches)[name]
    assert torch.equal(packed[name], Gptq()(model.state_dict()[name], inputs).dequantize())


def first_inputs(model: Decoder, ids: Tensor) -> Tensor:
    return model.blocks[0].attention_norm(model.embedding(ids), None)[1].flatten(0, 1).detach()


def test_nan_is_an_error_that_names_file_and_weight(tmp_path: Path, four: QuantizeConfig) -> None:
    source(tmp_path, **{"blocks.0.ffn.up.weight": torch.full((128, 64), torch.nan)})
    with pytest.raises(ValueError, match=r"model\.safetensors: blocks\.0\.ffn\.up\.weight: .*NaN"):
        run(four, tmp_path, Log())


def test_what_is_no_source_is_refused(tmp_path: Path, four: QuantizeConfig) -> None:
    source(tmp_path)
    path = tmp_path / "distill/config.json"
    path.write_text(json.dumps({"model": {}, "quantization": {}}))
    with pytest.raises(ValueError, match="quantized already"):
        run(four, tmp_path, Log())
    path.unlink()
    with pytest.raises(ValueError, match=r"config\.json.*no such file"):
        run(four, tmp_path, Log())
    save_model(tmp_path / "distill", toy_model(), toy_tokenizer())
    (tmp_path / "distill/model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"model\.safetensors: cannot be read"):
        run(four, tmp_path, Log())


def test_a_model_trained_in_few_bits_is_packed_as_it_was_trained(tmp_path: Path) -> None:
    source(tmp_path)
    model = toy_model(width=64, ffn_width=128, seed=3)
    model.reparametrize(FewBits(bits=3, group=16, matrices=["ffn"]))
    model.merge()
    save_model(tmp_path / "distill", model, toy_tokenizer())
    metrics = run(config(Gptq(), tmp_path), tmp_path, Log())
    state, packed = load_file(tmp_path / "distill/model.safetensors"), read_back(tmp_path)
    described = json.loads((tmp_path / "quantize/config.json").read_text())["quantization"]["weights"]
    assert metrics["matrices_as_trained"] == 6
    for name, weight in state.items():
        if ".ffn." in name and weight.ndim == 2:
            assert torch.equal(packed[name], weight) and described[name]["bits"] == 3
        elif name.startswith("blocks.") and weight.ndim == 2:
            assert not torch.equal(packed[name], weight) and described[name]["bits"] == 4
    other = {**state, "blocks.0.ffn.up.weight": state["blocks.0.ffn.up.weight"] * 1.001}
    save_file(other, tmp_path / "distill/model.safetensors")
    with pytest.raises(
        ValueError, match=r"trained_in\.safetensors: blocks\.0\.ffn\.up\.weight: is not the weight in model"
    ):
        run(config(Gptq(), tmp_path), tmp_path, Log())

"""Inputs in whole numbers: by hand, a token apart from its neighbours, and a model that is read as it was made."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from lm.calibration import LayerInputs
from lm.checkpoint import load_model
from lm.config import ConfigError
from lm.decoding import cast_once, is_sharded
from lm.embeddings import Value
from lm.feed_forwards import Experts
from lm.gguf.export import save_gguf
from lm.hugging_face.export import save_hf
from lm.linears.base import roles_of
from lm.mixers import MinimalRNN, SlidingWindow
from lm.model import Decoder
from lm.quantized.inputs import Rounding, fake_quantize, is_rounding, round_inputs, round_inputs_of
from lm.sampler import generate
from tasks.core.log import Log
from tasks.quantize.activations import Int8Inputs
from tasks.quantize.methods import Rtn, SmoothQuant
from tasks.quantize.methods.smooth import factors
from tasks.quantize.stage import quantize, run
from tests.lm.models import toy_model, toy_tokenizer
from tests.quantize.test_stage import config, source

IDS = torch.randint(5, 261, (3, 11), generator=torch.Generator().manual_seed(0))


def test_by_hand() -> None:
    """Of 3 bits a token has the steps -3 to 3: of (6, -1, 0.9, 0) the step is 2, and in groups of two 2 and 0.3."""
    x = torch.tensor([[6.0, -1.1, 0.9, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert fake_quantize(x, Rounding(3, 0)).tolist() == [[6.0, -2.0, 0.0, 0.0], [0.0] * 4]
    assert fake_quantize(x, Rounding(3, 2))[0].tolist() == pytest.approx([6.0, -2.0, 0.9, 0.0])
    by_factors = fake_quantize(
        x, Rounding(3, 0), torch.tensor([3.0, 1.0, 1.0, 1.0])
    )  # (2, -1.1, 0.9, 0) in steps of 2 / 3
    assert by_factors[0].tolist() == pytest.approx([6.0, -4 / 3, 2 / 3, 0.0])


@given(st.integers(0, 10**6), st.integers(1, 70), st.sampled_from([0, 1, 8, 64]), st.sampled_from([2, 4, 8]))
def test_no_input_moves_by_more_than_half_a_step_whatever_stands_beside_it(
    seed: int, inputs: int, group: int, bits: int
) -> None:
    x = torch.randn(5, inputs, generator=torch.Generator().manual_seed(seed)) * 10.0 ** torch.arange(-2, 3)[:, None]
    found = fake_quantize(x, Rounding(bits, group))
    half = x.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1) / 2
    assert ((found - x).abs() <= half * 1.001).all()  # a step in fp32 is a product of two roundings
    assert torch.equal(torch.cat([fake_quantize(row[None], Rounding(bits, group)) for row in x]), found)


def test_gradients_pass_straight_through() -> None:
    layer = nn.Linear(4, 2, bias=False)
    round_inputs(layer, Rounding(4, 0))
    x = torch.tensor([[1.0, 0.3, -0.2, 0.05]], requires_grad=True)
    layer(x).sum().backward()
    assert torch.equal(x.grad[0], layer.weight.detach().sum(0))
    assert torch.equal(layer.weight.grad[1], fake_quantize(x.detach(), Rounding(4, 0))[0])


def test_factors_are_equation_4() -> None:
    """By hand: sqrt(16) / sqrt(0.25) = 8 and sqrt(1) / sqrt(4) = 1/2; 1 where a column is 0."""
    weight = torch.tensor([[0.25, -4.0, 0.0], [-0.1, 1.0, 0.0]])
    assert factors(torch.tensor([16.0, 1.0, 3.0]).double(), weight, 0.5).tolist() == [8.0, 0.5, 1.0]
    assert factors(torch.tensor([16.0, 1.0, 3.0]).double(), weight, 1.0).tolist() == [16.0, 1.0, 1.0]


def test_the_largest_input_of_a_column_counts_and_not_the_usual_one() -> None:
    seen = LayerInputs(torch.tensor([[1.0, -4.0], [2.0, 0.0], [-0.5, 0.0]]))
    assert seen.largest_I.tolist() == [2.0, 4.0]
    weight = torch.tensor([[0.5, 1.0]])
    assert SmoothQuant(alpha=1.0)(weight, seen).columns.tolist() == [2.0, 4.0]


def outputs(weight: Tensor, x: Tensor, method: Any) -> Tensor:
    packed = method(weight, LayerInputs(x))
    columns = packed.parts().get("columns")
    return fake_quantize(x, Rounding(8, 0), None if columns is None else columns.float()) @ packed.dequantize().T


def test_smoothing_saves_columns_that_a_large_one_would_hide() -> None:
    """As the paper's figure 2 has it: one column of inputs a hundred times the others."""
    draws = torch.Generator().manual_seed(0)
    x, weight = torch.randn(200, 64, generator=draws), torch.randn(32, 64, generator=draws)
    x[:, 5] *= 100
    exact = x @ weight.T
    errors = [
        (outputs(weight, x, method) - exact).norm().item()
        for method in (Rtn(bits=8, symmetric=True, group=64), SmoothQuant(group=64), SmoothQuant(group=64, alpha=0.0))
    ]
    assert errors[1] < 0.4 * errors[0] and errors[1] < 0.6 * errors[2]


@pytest.mark.parametrize("method", [Rtn(), SmoothQuant()], ids=repr)
@pytest.mark.parametrize("group", [0, 16])
def test_a_model_is_read_as_it_was_made(method: Any, group: int, tmp_path: Path) -> None:
    """With the rounding of inputs in config.json: without it other logits come out, by what 8 bits lose."""
    source(tmp_path)
    told = config(method, tmp_path / "problems", activation=Int8Inputs(group=group))
    run(told, tmp_path, Log())
    folder = tmp_path / "quantize"
    description = json.loads((folder / "config.json").read_text())
    assert description["quantization"]["inputs"] == {"bits": 8, "group": group}
    with torch.no_grad():
        made = load_model(folder)[0](IDS)
        alone = torch.cat([load_model(folder)[0](row[None]) for row in IDS])
        del description["quantization"]["inputs"]
        (folder / "config.json").write_text(json.dumps(description))
        exact = load_model(folder)[0](IDS)
    torch.testing.assert_close(made, alone, rtol=1e-4, atol=1e-4)  # fp32 sums of other shapes, beside a step of 1/127
    assert 0 < (made - exact).norm() < 0.05 * exact.norm()


def test_layers_are_packed_for_inputs_that_are_rounded_before_them(tmp_path: Path) -> None:
    """A method that looks at its inputs gives other codes to a later layer, and the same to the first."""
    codes = []
    for name, more in (("exact", {}), ("rounded", {"activation": Int8Inputs()})):
        source(tmp_path / name)
        run(config(SmoothQuant(bits=4), tmp_path / "problems", **more), tmp_path / name, Log())
        codes.append(load_file(tmp_path / name / "quantize/model.safetensors"))
    first, last = "blocks.0.attention.query.weight.columns", "blocks.1.ffn.down.weight.columns"
    assert torch.equal(codes[0][first], codes[1][first]) and not torch.equal(codes[0][last], codes[1][last])


def rounding_layers(model: Decoder) -> list[str]:
    return sorted(
        name for name, module in model.named_modules() if any(map(is_rounding, module._forward_pre_hooks.values()))
    )


@pytest.mark.parametrize(
    "shape", [{}, {"embeddings": [Value()]}, {"feed_forward": Experts(experts=4)}], ids=["usual", "tables", "experts"]
)
def test_what_calibrates_rounds_where_what_is_read_does(shape: dict[str, Any], tmp_path: Path) -> None:
    """Matrices of blocks: neither tables, which are looked up by whole numbers, nor what chooses experts."""
    model, told = toy_model(**shape), config(Rtn(), tmp_path, activation=Int8Inputs())
    quantize(model, told, {}, {}, [], Log())
    read = toy_model(**shape)
    round_inputs_of(read, Rounding(8, 0), {})
    roles = roles_of(model)
    wanted = sorted(
        name.removesuffix(".weight")
        for name, role in roles.items()
        if role == "matrix" and name.startswith("blocks.") and "router" not in name
    )
    assert rounding_layers(model) == rounding_layers(read) == wanted


def test_a_sampler_does_not_take_rounding_for_a_rank_that_sends_weights(tmp_path: Path) -> None:
    """Its products would be cast at every call."""
    source(tmp_path)
    run(config(Rtn(), tmp_path / "problems", activation=Int8Inputs()), tmp_path, Log())
    model, _ = load_model(tmp_path / "quantize")
    assert not is_sharded(model) and cast_once(model, torch.bfloat16)[0] is not model
    model.register_forward_pre_hook(lambda module, given: None)
    assert is_sharded(model)


def test_what_no_other_format_says_is_refused_and_nothing_written(tmp_path: Path) -> None:
    source(tmp_path)
    run(config(Rtn(), tmp_path / "problems", activation=Int8Inputs()), tmp_path, Log())
    model, _ = load_model(tmp_path / "quantize")
    with pytest.raises(ValueError, match="rounds its inputs"):
        save_hf(model, toy_tokenizer(), tmp_path / "out", torch.float32)
    with pytest.raises(ValueError, match="rounds its inputs"):
        save_gguf(model, toy_tokenizer(), tmp_path / "out.gguf", "f16")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    "said", [{"bits": 9, "group": 0}, {"bits": 8}, {"bits": 8, "group": -1}, {"bits": "8", "group": 0}]
)
def test_a_rounding_that_is_none_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="rounding"):
        Rounding.of(said)


def toy_with_cache(**shape: Any) -> Decoder:
    model = toy_model(seed=3, **shape)
    model.cache_rounding = Rounding(8, 0)
    return model


@torch.no_grad()
def stepwise(model: Decoder, pieces: list[int]) -> Tensor:
    """Logits of the ids in pieces of these lengths, through a cache."""
    cache, done, found = model.new_cache(len(IDS), IDS.shape[1]), 0, []
    for length in pieces:
        found.append(model(IDS[:, done : done + length], cache))
        done += length
    return torch.cat(found, 1)


def test_a_cache_in_whole_numbers_is_the_same_in_any_pieces_and_near_the_exact_one() -> None:
    """Tokens see what they will be remembered as, so that a prompt read at once is one that was written."""
    model = toy_with_cache()
    whole = stepwise(model, [11])
    for pieces in ([1] * 11, [4, 1, 1, 5]):
        torch.testing.assert_close(stepwise(model, pieces), whole, rtol=1e-4, atol=1e-5)  # fp32 sums in another order
    exact = toy_model(seed=3)(IDS)
    assert 0 < (whole - exact).norm() < 0.02 * exact.norm()


def test_a_cache_of_8_bits_takes_a_quarter_and_a_step() -> None:
    model = toy_with_cache()
    kept = model.new_cache(2, 10).states[0]
    exact = toy_model(seed=3).new_cache(2, 10).states[0]
    bytes_of = kept.codes_2BKCE.nbytes + kept.steps_2BKCN.nbytes
    numbers = exact.keys_BKCE.numel() + exact.values_BKCE.numel()
    assert kept.codes_2BKCE.nbytes == numbers and bytes_of == numbers * (1 + 4 / model.config.head_dim)


def test_rows_that_are_taken_bring_what_they_keep() -> None:
    model = toy_with_cache()
    small, large = model.new_cache(3, 8), model.new_cache(4, 11)
    with torch.no_grad():
        model(IDS[:, :8], small)
        large.take(torch.tensor([2, 0]), small, torch.tensor([1, 1]))
        ids = IDS[[1, 0, 1, 2]][:, 8:]
        after = model(ids, large)
        alone = stepwise(model, [8, 3])[1, 8:]
    torch.testing.assert_close(after[2], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after[0], after[2])  # rows of one product, which some CPUs sum in other tiles


def test_a_model_that_keeps_whole_numbers_is_read_as_one_and_answers_by_itself(tmp_path: Path) -> None:
    """Answers do not depend on what stands beside a prompt, cut or grown as the rows of a sampler are."""
    source(tmp_path)
    run(config(Rtn(), tmp_path / "problems", cache=Int8Inputs(group=16)), tmp_path, Log())
    model, tokenizer = load_model(tmp_path / "quantize")
    assert model.cache_rounding == Rounding(8, 16)
    prompts = [tokenizer.chat(text) for text in ("1+2=", "a much longer prompt than the others", "7*8=")]
    together = generate(model, prompts, 8, 0.0, tokenizer.end_id, 0)
    assert [generate(model, [one], 8, 0.0, tokenizer.end_id, 0)[0].ids for one in prompts] == [a.ids for a in together]


@pytest.mark.parametrize("mixer", [SlidingWindow(), MinimalRNN()], ids=repr)
def test_what_has_no_such_state_is_refused_by_name(mixer: Any) -> None:
    with pytest.raises(ConfigError, match="quantize.cache"):
        toy_with_cache(mixer=mixer).new_cache(1, 4)

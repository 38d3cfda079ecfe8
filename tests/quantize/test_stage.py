"""The stage: a folder that dequantizes to nearly its source, is as small as promised, and is the same on every run."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lm.quantized import unpack_state
from tasks.core.log import Log
from tasks.quantize.methods import Int4Group, Int8
from tasks.quantize.stage import QuantizeConfig, run

FILES = ("model.safetensors", "config.json", "tokenizer.json")
INT4 = QuantizeConfig(method=Int4Group())


def source(data: Path, **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """A model folder in data/distill, and an empty data/quantize."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"embedding.weight": (256, 64), "blocks.0.up.weight": (128, 64), "blocks.0.down.weight": (64, 128)}
    state = {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes.items()}
    state["norm.weight"] = torch.rand(64, generator=generator)
    state |= changes
    for folder in ("distill", "quantize"):
        (data / folder).mkdir(parents=True)
    save_file(state, data / "distill/model.safetensors")
    (data / "distill/config.json").write_text(json.dumps({"model": {"width": 64}}))
    (data / "distill/tokenizer.json").write_text("{}")
    return state


def read_back(data: Path) -> dict[str, torch.Tensor]:
    description = json.loads((data / "quantize/config.json").read_text())
    assert description["model"] == {"width": 64}
    return unpack_state(load_file(data / "quantize/model.safetensors"), description["quantization"])


def test_comes_back_nearly_as_it_was(tmp_path: Path) -> None:
    state = source(tmp_path)
    metrics = run(INT4, tmp_path, Log())
    restored = read_back(tmp_path)
    assert set(restored) == set(state)
    assert torch.equal(restored["norm.weight"], state["norm.weight"])
    assert torch.equal(restored["embedding.weight"], Int8()(state["embedding.weight"]).dequantize())
    assert torch.equal(restored["blocks.0.up.weight"], Int4Group()(state["blocks.0.up.weight"]).dequantize())
    matrices = [name for name in state if name != "norm.weight"]
    lost = sum((restored[name] - state[name]).square().sum() for name in matrices)
    total = sum(state[name].square().sum() for name in matrices)
    assert metrics["relative_squared_error"] == pytest.approx((lost / total).item(), rel=1e-4)
    assert 0 < metrics["relative_squared_error"] < 0.0065
    assert (tmp_path / "quantize/tokenizer.json").read_text() == "{}"


def test_sizes(tmp_path: Path) -> None:
    state = source(tmp_path)
    metrics = run(INT4, tmp_path, Log())
    # 256 rows of 64 bytes and a 2-byte scale; 2 x 8192 weights of 5 bits; 64 float32
    stored = 256 * 66 + 2 * 8192 * 5 // 8 + 64 * 4
    assert metrics["parameters"] == sum(weight.numel() for weight in state.values()) == 256 * 64 + 2 * 8192 + 64
    assert metrics["bits_per_weight"] == 8 * stored / metrics["parameters"]
    assert metrics["size_bytes"] == (tmp_path / "quantize/model.safetensors").stat().st_size
    # the header of the file names its tensors in under 1000 bytes
    assert stored < metrics["size_bytes"] < stored + 1000
    assert metrics["ratio"] == metrics["source_size_bytes"] / metrics["size_bytes"] > 3.5


def test_the_same_bytes_on_every_run(tmp_path: Path) -> None:
    for name in ("first", "second"):
        source(tmp_path / name)
        run(INT4, tmp_path / name, Log())
    for file in FILES:
        assert (tmp_path / "first/quantize" / file).read_bytes() == (tmp_path / "second/quantize" / file).read_bytes()


def test_eight_bits_lose_less_and_take_more(tmp_path: Path) -> None:
    results = []
    for config in (INT4, QuantizeConfig(method=Int8())):
        source(tmp_path / config.method.name)
        results.append(run(config, tmp_path / config.method.name, Log()))
    four, eight = results
    assert eight["relative_squared_error"] < four["relative_squared_error"] and eight["size_bytes"] > four["size_bytes"]


def test_nan_is_an_error_that_names_file_and_weight(tmp_path: Path) -> None:
    source(tmp_path, **{"blocks.0.up.weight": torch.full((2, 2), torch.nan)})
    with pytest.raises(ValueError, match=r"model\.safetensors: blocks\.0\.up\.weight: .*NaN"):
        run(INT4, tmp_path, Log())


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    source(tmp_path)
    config = tmp_path / "distill/config.json"
    config.write_text(json.dumps({"model": {}, "quantization": {}}))
    with pytest.raises(ValueError, match="quantized already"):
        run(INT4, tmp_path, Log())
    config.unlink()
    with pytest.raises(ValueError, match="not a model folder.*config.json"):
        run(INT4, tmp_path, Log())
    (tmp_path / "distill/model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="not a model folder"):
        run(INT4, tmp_path, Log())

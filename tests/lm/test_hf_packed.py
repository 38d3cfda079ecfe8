"""A quantized model as it is packed, read by transformers and by the library of its format: weights to the bit, logits and bytes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import load_file, save_file
from torch import Tensor

from flows.cli.export import main
from lm.checkpoint import description_of, load_model
from lm.config import Config
from lm.feed_forwards import Experts
from lm.files import write_json
from lm.hugging_face.export import save_hf
from lm.hugging_face.packed import packed_in
from lm.hugging_face.provenance import digest_of, read_provenance
from lm.linears import FewBits
from lm.model import Decoder
from lm.quantized.base import PackedMatrix
from lm.quantized.state import pack_state
from tasks.quantize.methods import Awq, Gptq, Int8, Rtn, TritPlanes
from tests.forks.process import TRAINING, started
from tests.lm.models import toy_model, toy_tokenizer
from tests.project import ROOT
from tests.run_main import run_main

IDS = torch.randint(0, 261, (3, 20), generator=torch.Generator().manual_seed(0))
SHAPE = {"width": 64, "ffn_width": 96, "qk_norm": False}


def quantized(folder: Path, methods: dict[str, Config], **shape: Any) -> Decoder:
    """A folder as the stage writes it: each matrix by the method of the first part of a name that it has; others stay."""
    model, packed = toy_model(seed=1, **{**SHAPE, **shape}), dict[str, PackedMatrix]()
    folder.mkdir(parents=True, exist_ok=True)
    for name, weight in model.named_parameters():
        method = next((m for part, m in methods.items() if part in name and weight.ndim == 2), None)
        if method is not None:
            packed[name] = method(weight.detach(), None)
    rest = {name: weight for name, weight in model.state_dict().items() if name not in packed}
    tensors, described = pack_state(packed, rest)
    save_file(tensors, folder / "model.safetensors")
    write_json(folder / "config.json", {**description_of(model, toy_tokenizer()), "quantization": described})
    toy_tokenizer().save(folder)
    return load_model(folder)[0]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found = model(IDS)
    return found if isinstance(found, Tensor) else found.logits


@pytest.mark.parametrize(
    "methods",
    [
        {"blocks.": Rtn(symmetric=True, group=32), "embedding": Int8()},
        {"blocks.": Rtn(symmetric=True, group=16, bits=8)},
        {"blocks.": Int8()},
        {
            "attention": Gptq(symmetric=True, group=64),
            "ffn.up": Rtn(symmetric=True, bits=3, group=32),
            "ffn.down": Rtn(),
        },
        {"blocks.": Rtn(symmetric=True, group=4096)},
    ],
    ids=["int4", "int8", "rows", "mixed", "one group"],
)
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_has_the_logits_of_the_model(methods: dict[str, Config], tied: bool, tmp_path: Path) -> None:
    ours = quantized(tmp_path / "model", methods, tied=tied)
    written = save_hf(
        *load_model(tmp_path / "model"), tmp_path / "out", torch.float32, packed=packed_in(tmp_path / "model")
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    # weights are equal to the bit: 2e-5 for another order of fp32 sums
    torch.testing.assert_close(logits(theirs), logits(ours), rtol=2e-5, atol=2e-5)
    names = set(load_file(tmp_path / "out/model.safetensors"))
    assert sum(name.endswith(".weight_packed") for name in names) == written > 0
    dense = (tmp_path / "dense").mkdir() or save_hf(*load_model(tmp_path / "model"), tmp_path / "dense", torch.float32)
    assert dense == 0
    whole, small = ((tmp_path / f / "model.safetensors").stat().st_size for f in ("dense", "out"))
    assert small < whole


def test_experts_are_refused_in_a_line(tmp_path: Path) -> None:
    quantized(tmp_path / "model", {"blocks.": Rtn(symmetric=True)}, feed_forward=Experts(experts=4, width=32))
    with pytest.raises(ValueError, match="has experts, which no reader has been seen to read packed"):
        packed_in(tmp_path / "model")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("columns", [32, 64, 96, 33])
def test_words_are_those_of_the_library(bits: int, columns: int) -> None:
    from lm.hugging_face.packed import tensors_of
    from lm.quantized.counts import unpacked

    weight = torch.randn(5, columns, generator=torch.Generator().manual_seed(0))
    packed = Rtn(bits=bits, group=4096, symmetric=True)(weight, None)
    whole = (unpacked(packed.codes, bits, columns).int() - 2 ** (bits - 1)).to(torch.int8)
    parts = tensors_of(packed, torch.float32)
    assert torch.equal(parts["weight_packed"], pack_to_int32(whole, bits)) and parts["weight_shape"].tolist() == [
        5,
        columns,
    ]


def test_what_was_trained_in_few_bits_is_written_packed(tmp_path: Path) -> None:
    model = toy_model(seed=1, **SHAPE)
    model.reparametrize(FewBits(bits=4, group=32))
    packed: dict[str, PackedMatrix] = {
        f"{name}.weight": matrix for name, matrix in model.linear.artifact(model.held).layers.items()
    }
    model.merge()
    written = save_hf(model, toy_tokenizer(), tmp_path, torch.float32, packed=packed)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert written == len(packed) == 14
    torch.testing.assert_close(logits(theirs), logits(model), rtol=2e-5, atol=2e-5)  # as above


@pytest.mark.parametrize("method", [Rtn(), Awq(), TritPlanes(group=32), Rtn(symmetric=True, group=48)], ids=repr)
def test_what_the_format_does_not_have_is_one_line(method: Config, tmp_path: Path) -> None:
    quantized(tmp_path / "model", {"attention": method})
    with pytest.raises(ValueError, match="no matrix is packed as compressed-tensors has it: take a symmetric method"):
        save_hf(*load_model(tmp_path / "model"), tmp_path / "out", torch.float32, packed=packed_in(tmp_path / "model"))
    assert not (tmp_path / "out").exists()


def test_by_the_command(tmp_path: Path) -> None:
    quantized(tmp_path / "model", {"ffn": Rtn(symmetric=True), "attention": Rtn()})
    words = [str(tmp_path / "model"), str(tmp_path / "out"), "--packed"]
    printed, _ = (made := started("flows.cli.export", words, ROOT, dict(os.environ), TRAINING)).communicate()
    assert made.returncode == 0 and printed.endswith("MB, 6 of 14 matrices packed\n"), printed
    told = json.loads(run_main(main, *words, "--json").stdout)
    written = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert told == {"target": str(tmp_path / "out"), "bytes": written, "packed": 6, "matrices": 14}
    own, of = read_provenance(tmp_path / "out")["model.safetensors"]
    assert (own, of) == tuple(map(digest_of, (tmp_path / "out", tmp_path / "model")))
    described = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    (group,) = described["config_groups"].values()
    assert len(group["targets"]) == 6 and group["weights"]["group_size"] == 32 and len(described["ignore"]) == 9
    refused = run_main(main, tmp_path / "model", tmp_path / "out.gguf", "--packed")
    assert (
        refused.returncode == 2
        and refused.stderr == "export: --packed goes with a folder: a GGUF file is packed by --format\n"
    )
    dense = tmp_path / "dense"
    dense.mkdir()
    from lm.checkpoint import save_model

    save_model(dense, toy_model(), toy_tokenizer())
    refused = run_main(main, dense, tmp_path / "out", "--packed")
    assert refused.returncode == 2 and "is not quantized" in refused.stderr and refused.stderr.count("\n") == 1

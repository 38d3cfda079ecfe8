"""Pretraining that begins as a smaller model, through the stage itself and what is said of it before it runs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from flows.preflight.checkpoint import check_checkpoint
from flows.preflight.narrow import narrow_checkpoint
from lm.checkpoint import load_model, save_model
from lm.config import methods_of
from lm.hugging_face.export import save_hf
from lm.model import Decoder
from lm.model_folder import read_model
from lm.prompts import PromptTuning
from lm.prompts.base import put_prompt
from lm.training.data.plan import Plan
from tasks.about.sections import Sections
from tasks.core.config import ConfigError
from tasks.core.log import Log
from tasks.pretrain import starts
from tasks.pretrain.checkpoint import reads
from tasks.pretrain.contracts import fits
from tasks.pretrain.stage import run as pretrain
from tasks.pretrain.starts.base import Grown, without_padding
from tasks.pretrain.toy import toy
from tasks.runner.graph import read_graph
from tasks.tokenize import methods
from tests.flows.preflight_project import params_of
from tests.lm.made_parts import ids_of, stirred
from tests.lm.models import toy_model, toy_tokenizer
from tests.pretrain.test_starts import Losses, checkpoint, config, data_of  # noqa: F401 - a fixture

METHODS: Any = [method for method in methods_of(starts) if issubclass(method, Grown)]


def smaller(**shape: Any) -> Decoder:
    return stirred(toy_model(seed=4, **{"heads": 2, "kv_heads": 1, "ffn_width": 48, "width": 32, **shape})).eval()


def first_loss(data: Path, folder: Path, start: Any, **model: Any) -> float:
    log = Losses()
    made = config(folder, start, context=64, **{"kv_heads": 1, "layers": 4, **model})
    pretrain(made, data, log)
    return log.said[0]


@pytest.mark.parametrize("theirs", [False, True], ids=["ours", "Hugging Face's"])
def test_the_first_loss_is_the_smaller_models(tmp_path: Path, theirs: bool) -> None:
    """With a new layer behind each; layers that are stacked have another."""
    folder, model, tokenizer = tmp_path / "small", smaller(context=64), toy_tokenizer()
    folder.mkdir()
    if theirs:
        save_hf(model, tokenizer, folder, torch.float32)
    else:
        save_model(folder, model, tokenizer)
    data = data_of(tmp_path / "data", methods.HuggingFace() if theirs else methods.Bytes(), folder)
    model, _ = read_model(folder)
    found = {start.name: first_loss(data, folder, start) for start in (starts.Lossless(), starts.Stacked())}
    wanted = smaller_loss(model, data)
    # a mean of 32 losses of the order of 10, in fp32
    assert found["lossless"] == pytest.approx(wanted, abs=1e-5) and abs(found["stacked"] - wanted) > 0.01
    assert load_model(data / "pretrain")[0].config.layers == 4


def smaller_loss(model: Decoder, data: Path) -> float:
    """Of the plan's only sequence."""
    ids = torch.as_tensor(Plan(data / "curriculum", data / "tokenize").batch(0)).long()
    with torch.no_grad():
        found = model(ids[:, :-1])
    return float(torch.nn.functional.cross_entropy(found[0], ids[0, 1:]))


def test_corpora_in_other_tokens_and_missing_folders_are_refused_in_a_line(tmp_path: Path, checkpoint: Path) -> None:  # noqa: F811
    data = data_of(tmp_path / "data", methods.Bytes(), checkpoint)
    for start in (method() for method in METHODS):
        with pytest.raises(
            ConfigError, match=r"pretrain.start: the corpus is in other tokens than .*train that on this"
        ):
            pretrain(config(checkpoint, start), data, Log())
        with pytest.raises(ConfigError, match=r"nowhere/config.json: no such file"):
            pretrain(config(tmp_path / "nowhere", start), data, Log())
    folder = tmp_path / "small"
    folder.mkdir()
    save_model(folder, smaller(), toy_tokenizer())
    with pytest.raises(ConfigError, match=r"pretrain.model.vocab_size: 50, but the tokenizer has 261; use 0"):
        pretrain(config(folder, starts.Cloned(), vocab_size=50), data, Log())
    with pytest.raises(ConfigError, match=r"pretrain.model: no larger than the smaller model"):
        pretrain(config(folder, starts.Cloned(), layers=2, kv_heads=1), data, Log())


@pytest.mark.parametrize("rows", [261, 264])
def test_a_soft_prompt_is_not_lost_without_a_word(tmp_path: Path, checkpoint: Path, rows: int) -> None:  # noqa: F811
    data, model = data_of(tmp_path / "data", methods.Bytes(), checkpoint), smaller(vocab_size=rows)
    put_prompt(model, PromptTuning(length=3))
    model.merge()
    folder = tmp_path / "small"
    folder.mkdir()
    save_model(folder, model, toy_tokenizer())
    for start in (method() for method in METHODS):
        with pytest.raises(ConfigError, match=r"config\.json: the model carries a soft prompt, which would be lost"):
            pretrain(config(folder, start, layers=4, kv_heads=1), data, Log())
    stages = [entry for entry in read_graph().values() if entry.name == "pretrain"]
    (finding,) = check_checkpoint(params(folder, "stacked", layers=4), stages)
    assert "the model carries a soft prompt, which would be lost: take one without" in str(finding)


def test_rows_of_no_token_are_left_out() -> None:
    for tied in (True, False):
        model = smaller(tied=tied, vocab_size=270)
        found = without_padding(model, 261)
        assert found.config.vocab_size == 261 and without_padding(found, 261) is found
        ids = ids_of(1, 8)
        with torch.no_grad():
            torch.testing.assert_close(found(ids), model(ids)[..., :261])


def test_a_model_of_ours_gives_its_tokens_too(tmp_path: Path) -> None:
    """tokenize.method hugging_face adopts them from a folder of ours, and they are those that its model has."""
    save_model(tmp_path, smaller(), toy_tokenizer())
    assert methods.HuggingFace()(iter(()), tmp_path) == read_model(tmp_path)[1]


def params(folder: Path, start: str, **model: Any) -> dict[str, Any]:
    shape = {"width": 32, "heads": 2, "kv_heads": 1, "ffn_width": 48, "layers": 2, **model}
    found = params_of(f"pretrain.start={{name: {start}}}", f"checkpoint.folder={folder}")
    return {**found, "pretrain": {**found["pretrain"], "model": {**found["pretrain"]["model"], **shape}}}


def test_preflight_reads_a_smaller_model_and_says_what_does_not_fit(tmp_path: Path) -> None:
    save_model(tmp_path, smaller(), toy_tokenizer())
    stages = [entry for entry in read_graph().values() if entry.name == "pretrain"]
    good = params(tmp_path, "stacked", layers=4)
    assert list(check_checkpoint(good, stages)) == [] == list(fits(Sections(good)))
    (finding,) = fits(Sections(params(tmp_path, "stacked", layers=3)))
    assert str(finding).startswith(
        "params.yaml: pretrain.model.layers: 3 is not two or more times the smaller model's 2"
    )
    assert list(fits(Sections(params(tmp_path, "random", layers=3)))) == []
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    (finding,) = check_checkpoint(good, stages)
    assert "model.safetensors: cannot be read" in str(finding)
    (tmp_path / "config.json").unlink()
    assert any("config.json: no such file" in str(found) for found in check_checkpoint(good, stages))
    assert list(fits(Sections(good))) == []


def test_the_toy_run_begins_at_random(tmp_path: Path) -> None:
    save_model(tmp_path, smaller(), toy_tokenizer())
    for name, said in (("stacked", "either"), ("random", ""), ("hugging_face", "model")):
        made = params(tmp_path, name)
        assert reads(made["pretrain"]) == said
        assert toy(made, tmp_path).get("start") == ({"name": "random"} if said == "either" else None)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    narrow_checkpoint(tmp_path, tmp_path / "narrow")
    assert (tmp_path / "narrow/chat_template.jinja").read_text() == "{{ messages }}"
    assert (tmp_path / "narrow/tokenizer.json").exists() and not (tmp_path / "narrow/model.safetensors").exists()

"""Perplexity under a checkpoint: bits by hand, the same bits however the corpus is divided, and the range that is kept."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lm.hugging_face.export import save_hf
from tasks.core.config import ConfigError
from tasks.core.log import Log
from tasks.core.tables import shard_path, write_table
from tasks.filter.engine.model_scores import bits_per_byte, read_checkpoint
from tasks.filter.methods import Perplexity
from tasks.filter.rule import Batch, Judgement, Setting
from tests.lm.models import other_tokenizer, toy_model, toy_tokenizer
from tests.project import digest

TEXTS = [
    "the cat sat on the mat",
    "",
    "zq" * 40,
    "na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve " * 20,
    "12 + 34 = 46",
    "a",
    "b",
    "c c",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_hf(toy_model(qk_norm=False), toy_tokenizer(), folder, torch.float32)
    return folder


def documents(folder: Path, cuts: list[list[str]]) -> Path:
    for number, texts in enumerate(cuts):
        columns = {
            "id": [f"{number}-{i}" for i in range(len(texts))],
            "source": ["b" if t == "b" else "a" for t in texts],
        }
        table = pa.table({**columns, "text": pa.array(texts, pa.large_string()), "meta": ["{}"] * len(texts)})
        write_table(shard_path(folder / "documents", number), table)
    return folder / "documents"


def prepared(folder: Path, cuts: list[list[str]], checkpoint: Path, **params) -> Perplexity:
    folder.mkdir(exist_ok=True)
    rule, own = Perplexity(**params), folder / "own"
    own.mkdir(exist_ok=True)
    rule.prepare(Setting(documents(folder, cuts), None, own, Log(), checkpoint))
    return rule


def judged(rule: Perplexity, folder: Path, number: int, first: int, texts: list[str]) -> Judgement:
    columns = (
        pa.array(["a"] * len(texts), pa.string()),
        pa.array(texts, pa.large_string()),
        pa.array(["{}"] * len(texts), pa.string()),
    )
    return rule.judge(Batch(number, first, *columns), folder / "own")


def test_bits_by_hand(checkpoint: Path) -> None:
    """Of the model's own logits, token by token; a text longer than the context of 48 counts as far as it is read."""
    model, tokenizer, first = read_checkpoint("filter.perplexity", checkpoint)
    assert first == tokenizer.eos_id
    for text, read in (("the cat", 7), ("zq" * 40, 48), ("x" + "\N{EURO SIGN}" * 20, 46)):
        ids = [first, *tokenizer.encode(text)][:49]
        with torch.no_grad():
            logp = model(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)
        bits = -sum(logp[place, token].item() for place, token in enumerate(ids[1:])) / math.log(2)
        assert bits_per_byte(model, tokenizer, first, text) == pytest.approx(bits / read, rel=1e-5)
    assert math.isnan(bits_per_byte(model, tokenizer, first, ""))


def test_a_model_with_a_beginning_of_text_begins_with_it(checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "bos_token_id": 7}))
    assert read_checkpoint("filter.perplexity", tmp_path)[2] == 7
    other_tokenizer().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="needs a bos_token_id"):
        read_checkpoint("filter.perplexity", tmp_path)


@settings(deadline=None, max_examples=8, derandomize=True)
@given(st.lists(st.integers(0, len(TEXTS)), max_size=3).map(sorted))
def test_the_same_bits_however_the_corpus_is_divided(tmp_path_factory, checkpoint: Path, places: list[int]) -> None:
    """Whole, cut into shards, asked for by batches of any size: a document's score and fate are its own."""
    folder = tmp_path_factory.mktemp("divided")
    cuts = [TEXTS[a:b] for a, b in zip([0, *places], [*places, len(TEXTS)], strict=True)]
    whole = judged(prepared(folder / "0", [TEXTS], checkpoint, high_quantile=0.5), folder / "0", 0, 0, TEXTS)
    rule = prepared(folder / "1", cuts, checkpoint, high_quantile=0.5)
    parts = [judged(rule, folder / "1", number, 0, cut) for number, cut in enumerate(cuts)]
    assert (
        np.concatenate([p.scores["bits_per_byte"] for p in parts]).tobytes() == whole.scores["bits_per_byte"].tobytes()
    )
    assert [r for part in parts for r in part.reasons] == list(whole.reasons) and whole.reasons.shape == (len(TEXTS),)
    again = [
        judged(rule, folder / "1", n, i, cut[i : i + 1]).reasons[0]
        for n, cut in enumerate(cuts)
        for i in range(len(cut))
    ]
    assert again == list(whole.reasons)


def test_the_range_and_the_ranks(checkpoint: Path, tmp_path: Path) -> None:
    scores = judged(prepared(tmp_path / "a", [TEXTS], checkpoint), tmp_path / "a", 0, 0, TEXTS).scores["bits_per_byte"]
    order = np.argsort(np.where(np.isnan(scores), np.inf, scores))[:7]
    ranked = prepared(tmp_path / "b", [TEXTS], checkpoint, low_quantile=0.25, high_quantile=0.75)
    reasons = judged(ranked, tmp_path / "b", 0, 0, TEXTS).reasons
    assert [reasons[i] for i in order] == ["low_perplexity"] + [None] * 5 + ["high_perplexity"]  # 7 * 0.25 = 1.75, 5.25
    assert reasons[1] == "no_text"
    middle = float(np.float32(scores[order[3]]))
    limited = prepared(tmp_path / "c", [TEXTS], checkpoint, least=middle)
    assert sum(r == "low_perplexity" for r in judged(limited, tmp_path / "c", 0, 0, TEXTS).reasons) == 3


def test_only_its_sources_are_read_and_ranked(checkpoint: Path, tmp_path: Path) -> None:
    rule = prepared(tmp_path / "a", [TEXTS], checkpoint, sources=["b"])
    scores = judged(rule, tmp_path / "a", 0, 0, TEXTS).scores["bits_per_byte"]
    assert list(np.flatnonzero(~np.isnan(scores))) == [6]


def test_a_killed_run_goes_on_with_the_shards_it_has(checkpoint: Path, tmp_path: Path) -> None:
    cuts = [TEXTS[:3], TEXTS[3:]]
    prepared(tmp_path / "whole", cuts, checkpoint)
    prepared(tmp_path / "killed", cuts, checkpoint)
    for left in ("00001.npy", "limits.json"):
        (tmp_path / "killed" / "own" / left).unlink()
    before = (tmp_path / "killed" / "own" / "00000.npy").stat().st_ino
    prepared(tmp_path / "killed", cuts, checkpoint)
    assert (tmp_path / "killed" / "own" / "00000.npy").stat().st_ino == before
    assert digest(tmp_path / "killed" / "own") == digest(tmp_path / "whole" / "own")


def test_what_cannot_be_used_is_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint.folder: .*config.json: no such file"):
        prepared(tmp_path / "a", [TEXTS], tmp_path)
    with pytest.raises(ConfigError, match="no document of its sources has any text"):
        prepared(tmp_path / "b", [["", ""]], checkpoint)
    with pytest.raises(ValidationError, match="low_quantile below high_quantile"):
        Perplexity(low_quantile=0.5, high_quantile=0.5)


def test_a_batch_of_nothing(checkpoint: Path, tmp_path: Path) -> None:
    nothing = judged(prepared(tmp_path / "a", [TEXTS], checkpoint), tmp_path / "a", 0, 0, [])
    assert len(nothing.reasons) == len(nothing.scores["bits_per_byte"]) == 0

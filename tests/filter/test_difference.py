"""Difference sampling: a score by hand, the share that stays, and what it needs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lm.hugging_face.export import save_hf
from tasks.core.config import ConfigError
from tasks.core.log import Log
from tasks.filter.engine.model_scores import bits_per_byte, excerpt_of, read_checkpoint
from tasks.filter.methods import Difference
from tasks.filter.methods.difference import saved
from tasks.filter.rule import Setting
from tests.filter.test_perplexity import TEXTS, documents, judged
from tests.lm.models import toy_model, toy_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with another, which reads less, in its folder `reference`."""
    folder = tmp_path_factory.mktemp("models")
    save_hf(toy_model(qk_norm=False), toy_tokenizer(), folder, torch.float32)
    save_hf(toy_model(seed=3, qk_norm=False, context=20), toy_tokenizer(), folder / "reference", torch.float32)
    return folder


def prepared(folder: Path, cuts: list[list[str]], models: Path, **params: object) -> Difference:
    folder.mkdir(exist_ok=True)
    rule, own = Difference(**params), folder / "own"
    own.mkdir(exist_ok=True)
    rule.prepare(Setting(documents(folder, cuts), None, own, Log(), models))
    return rule


def test_a_score_by_hand(models: Path, tmp_path: Path) -> None:
    """Bits that the large model saves a byte, of what both read."""
    scores = judged(prepared(tmp_path / "a", [TEXTS], models), tmp_path / "a", 0, 0, TEXTS).scores["difference"]
    large, small = (read_checkpoint("filter.difference", folder) for folder in (models, models / "reference"))
    for text, score in zip(TEXTS, scores.tolist(), strict=True):
        if not text:
            assert math.isnan(score)
            continue
        saved = bits_per_byte(*small, text[:20]) - bits_per_byte(*large, excerpt_of(small[1], text, 20)[0])
        assert score == pytest.approx(saved, rel=1e-6)


def test_both_read_the_same_of_a_text_whatever_their_tokenizers(models: Path, tmp_path: Path) -> None:
    """A tokenizer of letters alone, whose twenty tokens are less than the other's."""
    large, small = (read_checkpoint("filter.difference", folder) for folder in (models, models / "reference"))

    class Slow:
        """Two tokens a letter."""

        def encode(self, text: str) -> list[int]:
            return [token for index in small[1].encode(text) for token in (index, index)]

        def decode(self, ids: list[int]) -> str:
            return small[1].decode(ids[::2])

    text = "a long text that goes on for a while, and on"
    slow: Any = (small[0], Slow(), small[2])
    assert excerpt_of(slow[1], text, 20)[0] == text[:10]
    assert saved(large, slow, text) == bits_per_byte(*slow, text[:10]) - bits_per_byte(*large, text[:10])


@pytest.mark.parametrize(("share", "kept"), [(0.5, 4), (0.01, 1), (1.0, 7)])
def test_the_share_with_the_largest_differences_stays(models: Path, tmp_path: Path, share: float, kept: int) -> None:
    found = judged(prepared(tmp_path / "a", [TEXTS], models, share=share), tmp_path / "a", 0, 0, TEXTS)
    stay = [place for place, reason in enumerate(found.reasons) if reason is None]
    scores = found.scores["difference"]
    order = np.argsort(np.where(np.isnan(scores), np.inf, -scores))
    assert sorted(stay) == sorted(order[:kept].tolist()) and found.reasons[1] == "no_text"
    assert set(found.reasons) <= {None, "no_text", "low_difference"}


def test_the_same_however_the_corpus_is_divided(models: Path, tmp_path: Path) -> None:
    whole = judged(prepared(tmp_path / "a", [TEXTS], models), tmp_path / "a", 0, 0, TEXTS)
    cuts = [TEXTS[:3], TEXTS[3:]]
    rule = prepared(tmp_path / "b", cuts, models)
    parts = [judged(rule, tmp_path / "b", number, 0, cut) for number, cut in enumerate(cuts)]
    assert [reason for part in parts for reason in part.reasons] == list(whole.reasons)


def test_only_its_sources_are_judged(models: Path, tmp_path: Path) -> None:
    rule = prepared(tmp_path / "a", [TEXTS], models, sources=["b"])
    scores = judged(rule, tmp_path / "a", 0, 0, TEXTS).scores["difference"]
    assert list(np.flatnonzero(~np.isnan(scores))) == [6]


def test_what_is_missing_is_named(models: Path, tmp_path: Path) -> None:
    save_hf(toy_model(qk_norm=False), toy_tokenizer(), tmp_path / "alone", torch.float32)
    with pytest.raises(
        ConfigError, match=r"filter.difference reads checkpoint.folder: .*reference/config.json: no such"
    ):
        prepared(tmp_path / "a", [TEXTS], tmp_path / "alone")
    with pytest.raises(ConfigError, match=r"no document of its sources has any text"):
        prepared(tmp_path / "b", [TEXTS], models, sources=["none"])
    (tmp_path / "c/own").mkdir(parents=True)
    setting = Setting(documents(tmp_path / "c", [TEXTS]), None, tmp_path / "c/own", Log(), None)
    with pytest.raises(ConfigError, match=r"filter.difference: needs a checkpoint.folder"):
        Difference().prepare(setting)

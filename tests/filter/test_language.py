"""Language identification: the library's own answers, seven languages told apart, and every document by itself."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from tasks.core.config import ConfigError
from tasks.core.log import Log
from tasks.filter.methods import Language
from tasks.filter.methods.language import identified
from tasks.filter.rule import Setting
from tests.filter.documents import batch_of
from tests.real_text import REAL_TEXT, on_real_text

LIBRARY = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
ENGLISH = "The committee met on Tuesday to hear what the engineers had found beneath the old bridge."
FRENCH = "Le comité s'est réuni mardi pour entendre ce que les ingénieurs avaient trouvé sous le vieux pont."


def check_parity(texts: list[str], characters: int) -> None:
    """The same language, and its probability to 1e-4; where two are equally probable, either."""
    names, confidence = identified(pa.array(texts, pa.large_string()), characters)
    for text, name, found in zip(texts, names, confidence, strict=True):
        expected, probability = LIBRARY.classify(text[:characters])
        assert found == pytest.approx(probability, abs=1e-4), text
        if name != "und" and name != expected:
            assert dict(LIBRARY.rank(text[:characters]))[name] == pytest.approx(probability, abs=1e-4)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    st.lists(
        st.one_of(st.text(max_size=60), st.sampled_from([ENGLISH, FRENCH, ENGLISH.upper()])), min_size=1, max_size=4
    )
)
def test_the_librarys_answers(texts: list[str]) -> None:
    check_parity(texts, 200)


def test_reasons_by_hand() -> None:
    texts = [ENGLISH, FRENCH, ENGLISH.upper(), "", "e\N{COMBINING ACUTE ACCENT}"]
    judged = Language().judge(batch_of(texts), Path())
    assert list(judged.reasons[:4]) == [None, "other_language: fr", None, "other_language: und"]
    assert judged.scores["language"].dtype == np.float32 and judged.scores["language"][:3].min() > 0.95
    both = Language(keep=["en", "fr"], min_confidence=0.0).judge(batch_of(texts), Path())
    assert list(both.reasons[:3]) == [None, None, None]
    assert Language(min_confidence=1.0).judge(batch_of(["cat"]), Path()).reasons[0] is not None


def test_a_language_nobody_knows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="filter.language.keep: 'english' is no language of the model"):
        Language(keep=["english"]).prepare(Setting(tmp_path, None, tmp_path, Log()))


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    st.lists(st.one_of(st.text(max_size=60), st.sampled_from([ENGLISH, FRENCH])), min_size=1, max_size=6),
    st.integers(0, 5),
)
def test_a_document_is_judged_alone(texts: list[str], cut: int) -> None:
    judge = Language().judge
    whole = judge(batch_of(texts), Path())
    parts = [judge(batch_of(part), Path()) for part in (texts[:cut], texts[cut:]) if part]
    assert list(np.concatenate([part.reasons for part in parts])) == list(whole.reasons)
    scores = np.concatenate([part.scores["language"] for part in parts])
    assert scores.tobytes() == whole.scores["language"].tobytes()


@on_real_text
@pytest.mark.parametrize(("characters", "least"), [(100, 0.96), (200, 0.99)])
def test_seven_languages_are_told_apart(characters: int, least: float) -> None:
    """Pieces of Genesis; swedish and portuguese have near neighbours."""
    codes = {"english-kjv": "en", "finnish": "fi", "french": "fr", "german": "de", "portuguese": "pt", "swedish": "sv"}
    with gzip.open(REAL_TEXT / "prose" / "genesis.jsonl.gz", "rt") as lines:
        texts = {json.loads(line)["id"].split("/")[1].removesuffix(".txt"): json.loads(line)["text"] for line in lines}
    for name, code in codes.items():
        pieces = [texts[name][start : start + characters] for start in range(0, 40_000, characters)]
        names, _ = identified(pa.array(pieces, pa.large_string()), characters)
        assert np.mean([found == code for found in names]) >= least, name


@on_real_text
def test_the_librarys_answers_on_real_text() -> None:
    with gzip.open(REAL_TEXT / "prose" / "webtext.jsonl.gz", "rt") as lines:
        check_parity([json.loads(line)["text"] for line in lines][:400], 1000)


def test_a_batch_of_nothing() -> None:
    judged = Language().judge(batch_of([]), Path())
    assert len(judged.reasons) == 0 and all(
        len(each) == 0 for each in [*judged.scores.values(), *judged.counts.values()]
    )

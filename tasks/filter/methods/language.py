"""Language identification by the model inside py3langid 0.4 (Lui and Baldwin 2012, "langid.py"; BSD licence, 139 languages).

A naive Bayes model over byte n-grams; the library brings it as arrays, needs NumPy alone, and is kept. Its own walk over the
bytes is Python; here the walk is compiled, some seven times as fast, with the same answers. [Not implemented]: lists of
languages to choose among; a document that changes language after `characters` is what it begins as.
"""

import unicodedata
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from lm.config import Config
from tasks.core.config import ConfigError
from tasks.core.texts import Texts, text_buffers
from tasks.filter.rule import Batch, Judgement, Setting


@cache
def model() -> tuple[list[str], tuple[Any, ...]]:
    """(labels, arrays of `log_odds`); labels may come twice, in two scripts."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found = LanguageIdentifier.from_model_file(MODEL_FILE)
    steps, rows, features = (np.asarray(each) for each in (found.tk_nextmove, found.tk_row, found.tk_output))
    return found.nb_classes, (steps, rows, features.astype(np.int32), found.nb_ptc.astype(np.float32), found.nb_pc)


def sampled(texts: pa.LargeStringArray, characters: int) -> Texts:
    """The first characters of each text as the model was trained on them: composed (NFC), in lower case if all are capitals."""
    texts = pc.utf8_slice_codeunits(texts, 0, characters)
    texts = pc.if_else(pc.utf8_is_upper(texts), pc.utf8_lower(texts), texts)
    others = pc.invert(pc.string_is_ascii(texts))
    # not Arrow's utf8_normalize, which decomposes for NFC too (apache/arrow#51225, in 25.0)
    composed = [unicodedata.normalize("NFC", text) for text in texts.filter(others).to_pylist()]
    return text_buffers(pc.replace_with_mask(texts, others, pa.array(composed, pa.large_string())))


def identified(texts: pa.LargeStringArray, characters: int) -> tuple[list[str], np.ndarray]:
    """The most probable language of each text, and its probability; `und` where the text has nothing to go by."""
    from tasks.filter.engine.compiled_language import log_odds

    labels, arrays = model()
    scores_NL = log_odds(*sampled(texts, characters), *arrays)
    known_N = scores_NL.any(1)
    scores_NL = np.exp(scores_NL - scores_NL.max(1, keepdims=True))
    scores_NL /= scores_NL.sum(1, keepdims=True)
    for column, label in enumerate(labels):
        first = labels.index(label)
        if first < column:
            scores_NL[:, first] += scores_NL[:, column]
            scores_NL[:, column] = 0
    best_N = scores_NL.argmax(1)
    names = [labels[best] if known else "und" for best, known in zip(best_N, known_N, strict=True)]
    return names, scores_NL[np.arange(len(best_N)), best_N]


class Language(Config):
    name: Literal["language"] = "language"
    sources: list[str] | None = Field(None, description="judge the documents of these sources; all when absent")
    keep: list[str] = Field(["en"], min_length=1, description="ISO 639 codes")
    min_confidence: float = Field(0.65, ge=0, le=1, description="of the language found; FineWeb's threshold")
    characters: int = Field(500, gt=0, description="of the beginning of a text, that are looked at")

    def prepare(self, setting: Setting) -> None:
        """Raises ConfigError for a language that the model does not know."""
        known = sorted(set(model()[0]))
        for code in self.keep:
            if code not in known:
                raise ConfigError(
                    f"filter.language.keep: {code!r} is no language of the model (known: {' '.join(known)})"
                )

    def judge(self, batch: Batch, folder: Path) -> Judgement:
        """score_language is the probability of the language found, be it one to keep or not."""
        names, confidence_N = identified(batch.texts, self.characters)
        reasons = np.full(len(names), None, dtype=object)
        for row, (name, confidence) in enumerate(zip(names, confidence_N, strict=True)):
            if name not in self.keep:
                reasons[row] = f"other_language: {name}"
            elif confidence < self.min_confidence:
                reasons[row] = f"uncertain_language: {name}"
        return Judgement(reasons, scores={"language": confidence_N})

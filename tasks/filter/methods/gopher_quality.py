"""The quality rules of Gopher (Rae et al. 2021, arXiv:2112.11446, appendix A1.1).

Implemented: number of words, mean word length, symbol-to-word ratio ('#' and '...'), lines that begin with a bullet,
lines that end with an ellipsis, words with a letter, stop words. [Not implemented]: nothing of that list. The defaults are the
paper's. `definitions` says what is counted: of "paper", words are what white space divides, blank lines are no lines, '*' is a
bullet, stop words may be in capitals; of "datatrove", words are those of spaCy's English tokenizer, those all of punctuation do
not count towards number and length, blank lines are lines, '*' is no bullet, stop words are in lower case.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.filter.engine.reasons import first_reasons
from tasks.filter.engine.statistics import Definitions, statistics
from tasks.filter.rule import Batch, Judgement, Setting


def quality_reasons(table: np.ndarray, rules: "GopherQuality") -> np.ndarray:
    """First rule, in the paper's order, that each of N texts breaks; None when none. table: their statistics."""
    from tasks.filter.engine.compiled_statistics import Column

    columns = {column: table[:, column] for column in Column}
    words, lines = np.maximum(columns[Column.WORDS], 1), np.maximum(columns[Column.LINES], 1)
    counted = columns[Column.COUNTED_WORDS]
    mean = columns[Column.COUNTED_CHARACTERS] / np.maximum(counted, 1)
    checks = {
        "too_few_words": counted < rules.min_words,
        "too_many_words": counted > rules.max_words,
        "words_too_short": mean < rules.min_mean_word_length,
        "words_too_long": mean > rules.max_mean_word_length,
        "too_many_hashes": columns[Column.HASHES] / words > rules.max_symbol_ratio,
        "too_many_ellipses": columns[Column.ELLIPSES] / words > rules.max_symbol_ratio,
        "too_many_bullet_lines": columns[Column.BULLET_LINES] / lines > rules.max_bullet_line_fraction,
        "too_many_ellipsis_lines": columns[Column.ELLIPSIS_LINES] / lines > rules.max_ellipsis_line_fraction,
        "too_few_alphabetic_words": columns[Column.ALPHABETIC_WORDS] / words < rules.min_alphabetic_fraction,
        "too_few_stop_words": columns[Column.STOP_WORDS] < rules.min_stop_words,
    }
    return first_reasons(checks)


class GopherQuality(Config):
    name: Literal["gopher_quality"] = "gopher_quality"
    sources: list[str] | None = Field(None, description="judge the documents of these sources; all when absent")
    definitions: Definitions = "paper"
    min_words: int = Field(50, ge=0)
    max_words: int = Field(100_000, gt=0)
    min_mean_word_length: float = Field(3.0, ge=0)
    max_mean_word_length: float = Field(10.0, gt=0)
    max_symbol_ratio: float = Field(0.1, ge=0, description="of '#', and of ellipses, to words")
    max_bullet_line_fraction: float = Field(0.9, ge=0, le=1)
    max_ellipsis_line_fraction: float = Field(0.3, ge=0, le=1)
    min_alphabetic_fraction: float = Field(0.8, ge=0, le=1, description="of words with a letter")
    min_stop_words: int = Field(2, ge=0, le=8, description="different ones of the paper's eight")

    def prepare(self, setting: Setting) -> None:
        pass

    def judge(self, batch: Batch, folder: Path) -> Judgement:
        return Judgement(quality_reasons(statistics(batch, self.definitions).table(), self))

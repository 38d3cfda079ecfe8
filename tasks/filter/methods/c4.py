"""The lines and pages that C4 keeps (Raffel et al. 2020, JMLR 21:140, section 2.2).

Implemented: lines that end with a terminal mark, that have enough words, no JavaScript, and, as in the code that made C4, no
word of over 1000 characters, no phrase of a policy or of cookies; citation marks are taken out of them; pages with "lorem
ipsum", a curly bracket or too few sentences in the lines that are left, or with a bad word, are dropped. [Not implemented]:
the list of bad words itself, which is given as `bad_words`; deduplication of three-sentence spans and the choice of English,
which are stages and rules of their own. Differs: sentences are counted as datatrove counts them, by the rule of spaCy's
sentencizer, not by NLTK's punkt; "javascript" and the phrases are found in ASCII letters of either case; datatrove asks for 5
sentences and 3 words as the first version of the paper did, and also takes ' for a terminal mark.
"""

import re
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from lm.config import Config
from tasks.core.texts import text_buffers
from tasks.filter.engine.reasons import first_reasons
from tasks.filter.engine.spans import gathered
from tasks.filter.engine.statistics import over
from tasks.filter.engine.words import tables
from tasks.filter.rule import Batch, Judgement, Setting


def kept_lines(texts: pa.LargeStringArray, rules: "C4") -> tuple[pa.LargeStringArray, np.ndarray]:
    """N texts of the lines that stay, and N rows of compiled_lines.Count."""
    from tasks.filter.engine.compiled_lines import BYTES, CITATION_WORDS, COUNTS, PHRASES, keep_lines

    phrases, citations = (
        tuple(np.frombuffer(phrase.encode(), np.uint8) for phrase in group) for group in (PHRASES, CITATION_WORDS)
    )
    marks = np.frombuffer(rules.end_marks.encode(), np.uint8)
    data, offsets = text_buffers(texts)
    out, counts = np.empty_like(data), np.zeros((len(texts), COUNTS), np.int64)
    limits = rules.min_words, rules.max_word_length, rules.min_sentences

    def keep(data: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> None:
        keep_lines(*tables(), data, offsets, marks, *limits, phrases, citations, rules.remove_citations, out, rows)

    over(texts, counts, keep)
    return gathered(out, offsets[:-1], counts[:, BYTES]), counts


def with_bad_words(texts: pa.LargeStringArray, words: list[str]) -> np.ndarray:
    """N bools: whether any of the words stands in the text, in any case, between what is no letter, digit or underscore of
    ASCII."""
    pattern = rf"(?:^|\W)(?:{'|'.join(map(re.escape, words))})(?:\W|$)"
    return np.asarray(pc.match_substring_regex(texts, pattern, ignore_case=True))


class C4(Config):
    name: Literal["c4"] = "c4"
    sources: list[str] | None = Field(None, description="judge the documents of these sources; all when absent")
    end_marks: str = Field('.!?"', min_length=1, description="a line ends with one of these, and not with ...")
    min_words: int = Field(5, ge=0, description="of a line")
    max_word_length: int = Field(1000, gt=0, description="characters; lines with a longer word go")
    min_sentences: int = Field(3, ge=0, description="of the lines that are left")
    remove_citations: bool = Field(True, description="[12], [edit], [citation needed]")
    bad_words: list[str] = Field([], description="pages with any of these are dropped")

    @field_validator("end_marks")
    @classmethod
    def _one_byte_each(cls, marks: str) -> str:
        if not marks.isascii():
            raise ValueError("must be marks of ASCII")
        return marks

    def prepare(self, setting: Setting) -> None:
        pass

    def judge(self, batch: Batch, folder: Path) -> Judgement:
        from tasks.filter.engine.compiled_lines import CURLY, LOREM_IPSUM, TOO_FEW_SENTENCES, VERDICT, Count

        texts, counts = kept_lines(batch.texts, self)
        verdicts = counts[:, VERDICT]
        checks = {"lorem_ipsum": verdicts == LOREM_IPSUM, "curly_bracket": verdicts == CURLY}
        checks["too_few_sentences"] = verdicts == TOO_FEW_SENTENCES
        checks["nothing_left"] = pc.binary_length(texts).to_numpy() == 0
        if self.bad_words:
            checks["bad_word"] = with_bad_words(texts, self.bad_words)
        removed = [Count.LONG_WORD_LINES, Count.UNENDED_LINES, Count.SHORT_LINES]
        removed += [Count.JAVASCRIPT_LINES, Count.POLICY_LINES]
        done = {f"removed_{c.name.lower()}": counts[:, c] for c in [*removed, Count.CITATIONS]}
        return Judgement(first_reasons(checks), texts, counts=done)

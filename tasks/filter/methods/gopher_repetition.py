"""The repetition rules of Gopher (Rae et al. 2021, arXiv:2112.11446, table A1).

Implemented: the fraction of lines and of paragraphs that are duplicates, and of their characters; characters in the most
frequent 2-, 3- and 4-gram; characters in duplicated 5- to 10-grams. [Not implemented]: nothing of that table. `definitions`
says what is counted. Of "paper": words are what white space divides; characters of lines, paragraphs and n-grams are counted
without the white space around them, on both sides of each fraction; the most frequent n-gram occurs at least twice. Of
"datatrove": words are those of spaCy's English tokenizer; lines and paragraphs are kept with the white space in them; every
fraction of characters is one of the whole text; the most frequent n-gram has spaces in it, and may occur once; a repeated
n-gram that overlaps the one before it does not count.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.filter.engine.reasons import first_reasons
from tasks.filter.engine.statistics import Definitions, statistics
from tasks.filter.rule import Batch, Judgement, Setting

TOP_NGRAM = {2: 0.20, 3: 0.18, 4: 0.16}
DUPLICATE_NGRAM = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


def repetition_reasons(table: np.ndarray, rules: "GopherRepetition") -> np.ndarray:
    """First rule that each of N texts breaks; None when none. table: their statistics."""
    from tasks.filter.engine.compiled_statistics import Column

    def fraction(part: Column, whole: Column) -> np.ndarray:
        return table[:, part] / np.maximum(table[:, whole], 1)

    paper = rules.definitions == "paper"
    of_words, of_lines, of_paragraphs = (
        (Column.WORD_CHARACTERS, Column.PIECE_CHARACTERS, Column.PARAGRAPH_CHARACTERS)
        if paper
        else (Column.CHARACTERS,) * 3
    )
    checks = {
        "duplicate_lines": fraction(Column.REPEATED_PIECES, Column.PIECES) > rules.max_duplicate_line_fraction,
        "duplicate_lines_characters": fraction(Column.REPEATED_PIECE_CHARACTERS, of_lines)
        > rules.max_duplicate_line_character_fraction,
        "duplicate_paragraphs": fraction(Column.REPEATED_PARAGRAPHS, Column.PARAGRAPHS)
        > rules.max_duplicate_paragraph_fraction,
        "duplicate_paragraphs_characters": fraction(Column.REPEATED_PARAGRAPH_CHARACTERS, of_paragraphs)
        > rules.max_duplicate_paragraph_character_fraction,
    }
    for size, most in TOP_NGRAM.items():
        checks[f"top_{size}gram"] = fraction(Column[f"TOP_{size}"], of_words) > most * rules.ngram_leniency
    for size, most in DUPLICATE_NGRAM.items():
        checks[f"duplicate_{size}grams"] = fraction(Column[f"GRAM_{size}"], of_words) > most * rules.ngram_leniency
    if not paper:
        checks["empty"] = table[:, Column.CHARACTERS] == 0
    return first_reasons(checks)


class GopherRepetition(Config):
    name: Literal["gopher_repetition"] = "gopher_repetition"
    sources: list[str] | None = Field(None, description="judge the documents of these sources; all when absent")
    definitions: Definitions = "paper"
    max_duplicate_line_fraction: float = Field(0.30, ge=0, le=1)
    max_duplicate_line_character_fraction: float = Field(0.20, ge=0, le=1)
    max_duplicate_paragraph_fraction: float = Field(0.30, ge=0, le=1)
    max_duplicate_paragraph_character_fraction: float = Field(0.20, ge=0, le=1)
    ngram_leniency: float = Field(1.0, gt=0, description="times the paper's limits of n-grams; above 1 for code")

    def prepare(self, setting: Setting) -> None:
        pass

    def judge(self, batch: Batch, folder: Path) -> Judgement:
        return Judgement(repetition_reasons(statistics(batch, self.definitions).table(repetition=True), self))

"""Decontamination: documents that hold a problem which a later stage trains on or is measured by.

Words are compared in lower case, without punctuation and white space. A document goes when a stretch of it covers `overlap` of
a problem's question, or of its worked answer, with word n-grams of that text; 13 words as in GPT-3 (Brown et al. 2020,
arXiv:2005.14165, appendix C), a text of fewer words as a whole. With `ngram: 5` the same finds texts that were edited lightly.
Differs from GPT-3: the document goes rather than the 200 characters around a hit, and a hit alone is not enough.

A question of fewer than `min_words` words, such as `47+38=`, is looked for as a line that begins with it and ends with its
answer: a sum inside a sentence, or a column of another sum's working, is no leak.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.core.config import ConfigError
from tasks.filter.engine.leaks import of_file, of_splits, read_tables, write_tables
from tasks.filter.engine.lowered import lowered
from tasks.filter.rule import Batch, Judgement, Setting


class Contamination(Config):
    name: Literal["contamination"] = "contamination"
    sources: list[str] | None = Field(None, description="judge the documents of these sources; all when absent")
    splits: list[Literal["sft", "rl", "test"]] = Field(
        ["sft", "rl", "test"], description="of `problems`, the set that later stages use"
    )
    files: list[str] = Field([], description="further problems: JSON lines with `question` and `answer`, or `text`")
    ngram: int = Field(13, ge=2, le=32, description="words")
    overlap: float = Field(0.5, gt=0, le=1, description="of a problem's words, that a document must cover")
    window: float = Field(2.0, ge=1, description="times a problem's words: the stretch of a document that is looked at")
    min_words: int = Field(
        8, ge=2, description="the fewest that are evidence; shorter questions are looked for as lines"
    )

    @property
    def reads(self) -> list[str]:
        return self.files

    def prepare(self, setting: Setting) -> None:
        """Raises ConfigError for problems that cannot be read, and when there is none to look for."""
        problems = of_splits(setting.problems, self.splits) if self.splits else []
        problems += [problem for file in self.files for problem in of_file(Path(file))]
        searched = write_tables(problems, self.ngram, self.min_words, setting.folder)
        if not searched["by_ngrams"] + searched["as_lines"]:
            raise ConfigError(
                f"filter.contamination: none of {len(problems)} problems can be looked for; name splits or files"
            )
        setting.log.fact(**{f"problems_{how}": count for how, count in searched.items()})

    def judge(self, batch: Batch, folder: Path) -> Judgement:
        """A reason names the split or file of the problem, then its id, and how much of it the text covers."""
        from tasks.filter.engine.compiled_ngrams import covers
        from tasks.filter.engine.compiled_solutions import solved

        pieces, lines, labels = read_tables(folder / "labels.json")
        data, places = batch.cached("lowered", lowered)
        piece_N, fraction_N = covers(data, places, pieces, self.window, self.overlap, self.min_words)
        row_N = solved(data, places, lines) if labels["lines"] else np.full(len(batch.texts), -1)
        reasons = np.full(len(batch.texts), None, dtype=object)
        for text, (piece, fraction, row) in enumerate(zip(piece_N, fraction_N, row_N, strict=True)):
            if piece >= 0 or row >= 0:
                label = labels["pieces"][piece] if piece >= 0 else labels["lines"][row]
                origin, _, problem = label.partition(" ")
                reasons[text] = f"contaminated_{origin}: {problem}, {fraction if piece >= 0 else 1:.2f} of it"
        return Judgement(reasons)

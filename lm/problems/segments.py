"""Plain text as problems, what comes next in it: RL on pre-training data, Li et al. 2025 (arXiv:2509.19249)."""

import re
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from lm.problems.answers import MARK
from lm.problems.example import Example, Score
from lm.problems.files import rows_of
from lm.problems.folder import Folder, level_of, normalised, text_of

# Behind a sentence's end, with a quote or a bracket that closes, or at the end of a line
BETWEEN = re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"')\]\u201d\u2019])\s+|\s*\n\s*")
GAP = "[...]"


def segments_of(text: str, least: int) -> list[str]:
    """Sentences and lines of a text, in order, white space as single blanks; one with fewer than `least` words is joined with
    what follows, the last one with what is before it."""
    found, short = list[str](), ""
    for piece in BETWEEN.split(text):
        short = " ".join(f"{short} {piece}".split())
        if len(short.split()) >= least:
            found.append(short)
            short = ""
    if short and found:
        found[-1] = f"{found[-1]} {short}"
    return found if found or not short else [short]


class Segments(Folder):
    """Texts of a folder, cut into sentences, as the paper's segments are: a prompt is the `before` segments before one, and
    with `after` as many behind a gap, its answer the segment. Those are the paper's two tasks, the next segment (ASR) and one
    in the middle (MSR). All segments of a text are in one split. A policy may think first, as it does of other sets: where
    `####` is in a text, what it says stands behind the last one; segments with that mark are left out.

    With `words` a problem is the next words of a text and not the next sentence: of one word, the next-token prediction with
    thoughts of Reinforcement Mid-Training (Tian et al. 2025, arXiv:2509.24375), whose other parts are rl's: the curriculum
    `by_entropy`, the demonstrations `next_token`, and `length_budget`. Differs from that paper: words, since a problem set
    knows no tokenizer.

    Differs from the paper: it judges by a generative reward model whether what was said means the same as a beginning of the
    true segment; here a program tells whether it is the true segment, word by word, and the reward `agreement` how many
    words of it; one of the two tasks a run, where the paper weighs one against the other; no model that was taught to think."""

    name: Literal["segments"] = "segments"
    needs: ClassVar[str] = "a JSON object with a text `text`"
    before: int = Field(4, gt=0, description="segments of the text that are shown before the one asked for, at most")
    after: int = Field(
        0, ge=0, description="segments behind it that are shown, too, at most; 0: what comes next is asked"
    )
    least: int = Field(4, gt=0, description="words of a segment; a shorter sentence is joined with the next one")
    words: int = Field(
        0, ge=0, description="of a segment that are asked at a time, behind those before them; 0: all of it at once"
    )

    @model_validator(mode="after")
    def _what_comes_next(self) -> "Segments":
        if self.words and self.after:
            raise ValueError("words: the next ones are asked, with nothing behind them: set after or words to 0")
        return self

    def examples_of(self, where: str, row: dict[str, Any]) -> Iterator[Example]:
        """Every problem of a line. Raises ConfigError naming file and line where there is no text."""
        text = text_of(row, "text", where, self.needs)
        level, known = level_of(row, where), blake2b(normalised(text).encode(), digest_size=6).hexdigest()
        segments = segments_of(text, self.least)
        last = len(segments) - (self.after > 0)  # where a text goes on is asked where there is something behind
        for place in range(1, last):
            segment = segments[place]
            shown = segments[max(0, place - self.before) : place]
            behind = segments[place + 1 : place + 1 + self.after]
            prompt = " ".join([*shown, *([GAP, *behind] if behind else [])])
            if MARK in segment:
                continue
            if not self.words:
                yield Example(f"{known}:{place}", prompt, segment, segment, level)
                continue
            own = segment.split()
            for start in range(0, len(own) - self.words + 1, self.words):
                asked = " ".join(own[start : start + self.words])
                yield Example(f"{known}:{place}:{start}", " ".join([prompt, *own[:start]]), asked, asked, level)

    def key(self, example: Example) -> str:
        """A hash of the whole text, so that none is divided."""
        return example.id.partition(":")[0]

    def _read(self, path: Path) -> list[Example]:
        return [example for where, row in rows_of(path, self.needs) for example in self.examples_of(where, row)]

    def score(self, example: Example, text: str) -> Score:
        """1 when the text, or what stands behind its last '####', is the segment, however white space is set; else 0."""
        return Score(float(text.rpartition(MARK)[2].split() == example.answer.split()))

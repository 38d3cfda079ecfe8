"""Which problems and held-out documents stand in training, and the scores of those that do and of those that do not.

A text is compared in stretches (grams) of 40 bytes, white space and the case of ASCII letters aside, by the code with which
tokenize compares held-out documents; PaLM (arXiv:2204.02311, section 8) does so with 8 words and calls contaminated what shares
70% of them. A question of fewer bytes, such as `47+38=`, is looked for as filter's contamination does: as a line that begins
with it and ends with its answer. Training is what tokenize has as that, decoded.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lm.intervals import wilson
from lm.problems.example import Example
from lm.tokenizer import Tokenizer
from tasks.core.tables import read_table
from tasks.core.texts import GRAM, text_buffers
from tasks.evaluate.accuracy import Answer
from tasks.evaluate.bits_per_byte import interval

DOCUMENTS = 512  # of training that are searched at once
CLEAN, CONTAMINATED = "clean", "contaminated"
OVERLAP = "overlap"  # the table of data/evaluate/<model>


@dataclass(frozen=True)
class ContaminationTarget:
    """A text to look for: of a problem the question, with its answer; of a document all of it, without one."""

    id: str
    text: str
    answer: str | None = None


def of_problems(examples: Sequence[Example]) -> list[ContaminationTarget]:
    """What is looked for of each problem."""
    return [ContaminationTarget(example.id, example.prompt, example.answer) for example in examples]


def training_texts(folder: Path, tokenizer: Tokenizer) -> Iterator[list[str]]:
    """Texts of the documents of data/tokenize that are trained on, DOCUMENTS at a time."""
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    rows = [row for row in read_table(folder / "documents.parquet").to_pylist() if row["split"] == "train"]
    for first in range(0, len(rows), DOCUMENTS):
        some = rows[first : first + DOCUMENTS]
        yield [tokenizer.decode(tokens[row["start"] : row["start"] + row["length"]].tolist()) for row in some]


def shares(sought: Sequence[ContaminationTarget], training: Iterator[list[str]]) -> list[float]:
    """The share of each text's grams that a document of training has; of a short question 1 where a line is its solution, else
    0, and 0 of what has nothing to look for."""
    from tasks.core.grams import bits_of, count_seen, folded_lengths, grams_of, mark, table_of

    data, offsets = _column([one.text for one in sought])
    whole = folded_lengths(data, offsets)
    # a short document is one gram; a short question would be found in any longer number
    lengths = [
        0 if one.answer is not None and length < GRAM else min(int(length), GRAM)
        for one, length in zip(sought, whole, strict=True)
    ]
    keys = [grams_of(data, offsets[row], offsets[row + 1], length) for row, length in enumerate(lengths) if length]
    every = np.unique(np.concatenate([np.zeros(0, np.uint64), *keys]))
    slots, bits = table_of(every), bits_of(every)
    seen_S = np.zeros(len(slots), bool)
    solutions = _solutions(sought, whole)
    solved: set[int] = set()
    for texts in training:
        some, places = _column(texts)
        for length in sorted(set(lengths) - {0}):
            mark(some, places, length, bits, slots, seen_S)
        for text in texts if solutions else ():
            solved.update(_solved(text, solutions))
    found = table_of(np.sort(slots[seen_S]))
    told = []
    for row, length in enumerate(lengths):
        if not length:
            told.append(float(row in solved))
            continue
        seen, count = count_seen(data, offsets[row], offsets[row + 1], length, found, np.uint64(2**64 - 1))
        told.append(seen / count)
    return told


def _column(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    return text_buffers(pa.array(texts, pa.large_string()))


def _bare(text: str) -> str:
    return "".join(text.lower().split())


def _solutions(sought: Sequence[ContaminationTarget], whole: np.ndarray) -> dict[int, dict[str, list[tuple[str, int]]]]:
    """Short questions with an answer, by their length and their text: (answer, row) of each."""
    found: dict[int, dict[str, list[tuple[str, int]]]] = defaultdict(lambda: defaultdict(list))
    for row, one in enumerate(sought):
        question, answer = _bare(one.text), _bare(one.answer or "")
        if answer and question and whole[row] < GRAM:
            found[len(question)][question].append((answer, row))
    return found


def _solved(text: str, solutions: dict[int, dict[str, list[tuple[str, int]]]]) -> Iterator[int]:
    """Rows of the questions that a line of the text begins with, where the line ends in the answer."""
    for line in map(_bare, text.split("\n")):
        for length, questions in solutions.items():
            for answer, row in questions.get(line[:length], ()):
                if len(line) >= length + len(answer) and line.endswith(answer):
                    yield row


def marked(
    kind: str, sought: Sequence[ContaminationTarget], found: Sequence[float], above: float
) -> list[dict[str, Any]]:
    """A row for each text: its share, and whether that is more than is borne."""
    return [
        {"kind": kind, "id": one.id, "share": share, "contaminated": share > above}
        for one, share in zip(sought, found, strict=True)
    ]


def scores_apart(called: str, answers: Sequence[Answer], contaminated: Sequence[bool]) -> dict[str, float]:
    """The share of right answers of the clean problems and of the contaminated ones, with intervals (Wilson) and counts; a side
    without a verdict has a count alone. called: what the metrics begin with, "" of the first set."""
    told: dict[str, float] = {}
    for side in (CLEAN, CONTAMINATED):
        some = [a.score for a, is_in in zip(answers, contaminated, strict=True) if is_in == (side == CONTAMINATED)]
        valid, name = [score.value for score in some if score.valid], f"{called}_{side}" if called else side
        told[f"{name}_problems"] = len(some)
        if valid:
            told[f"{name}_accuracy"] = sum(valid) / len(valid)
            told[f"{name}_accuracy_low"], told[f"{name}_accuracy_high"] = wilson(sum(valid), len(valid))
    return told


def bits_apart(rows: Sequence[dict[str, Any]], contaminated: Sequence[bool]) -> dict[str, float]:
    """Bits per byte of the clean documents and of the contaminated ones, with the interval of a bootstrap and the count."""
    told: dict[str, float] = {}
    for side in (CLEAN, CONTAMINATED):
        some = [row for row, is_in in zip(rows, contaminated, strict=True) if is_in == (side == CONTAMINATED)]
        told[f"{side}_documents"] = len(some)
        if size := sum(row["bytes"] for row in some):
            told[f"{side}_bits_per_byte"] = sum(row["bits"] for row in some) / size
        if (ends := interval(some)) is not None:
            told[f"{side}_bits_per_byte_low"], told[f"{side}_bits_per_byte_high"] = ends
    return told


def split_by_contamination(
    tables: Sequence[tuple[str, Sequence[Answer]]],
    documents: Sequence[ContaminationTarget],
    bits: Sequence[dict[str, Any]],
    training: Iterator[list[str]],
    above: float,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """(a row for each problem of each set and each document, their metrics). tables: name of a set, "" of the first, and its
    answers; bits: a row for each document, in their order."""
    parts = [(called or "problems", of_problems([a.example for a in answers])) for called, answers in tables]
    parts.append(("documents", list(documents)))
    found = shares([one for _, part in parts for one in part], training)
    rows: list[dict[str, Any]] = []
    told: dict[str, float] = {}
    for (kind, part), (called, answers) in zip(parts, [*tables, ("", [])], strict=True):
        some = marked(kind, part, found[len(rows) : len(rows) + len(part)], above)
        rows += some
        which = [row["contaminated"] for row in some]
        told |= bits_apart(bits, which) if kind == "documents" else scores_apart(called, answers, which)
    return rows, told

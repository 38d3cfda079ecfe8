"""The problems that documents are searched for, made into tables for compiled code and read back by any worker."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lm.problems.files import rows_of
from tasks.core.config import ConfigError
from tasks.core.texts import Texts
from tasks.filter.engine.file_cache import cached_by_file
from tasks.filter.engine.lowered import lowered

# An n-gram of more problems than these is the wording they share and speaks for none of them; GPT-3 (arXiv:2005.14165,
# appendix C) leaves out 13-grams that were found more than ten times.
MOST_PROBLEMS = 10


@dataclass(frozen=True)
class Problem:
    """A problem to look for: `split id` or `file id`, its question or text, the answer its verifier looks for, and the worked
    answer."""

    label: str
    prompt: str
    answer: str = ""
    demonstration: str = ""


def of_splits(problems: Any, splits: Sequence[str]) -> list[Problem]:
    """The problems of a set. Raises ConfigError saying what the set says of its files."""
    try:
        examples = [(split, example) for split in splits for example in problems.examples(split)]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return [Problem(f"{split} {e.id}", e.prompt, e.answer, e.demonstration) for split, e in examples]


def of_file(path: Path) -> list[Problem]:
    """The rows of a file of JSON lines with `question` and `answer`, or `text`. Raises ConfigError naming file and line."""
    if not path.is_file():
        raise ConfigError(f"filter.contamination.files: {path}: no such file; give JSON lines, gzipped or not")
    found, needs = [], "a JSON object with strings `question` and `answer`, or `text`"
    for where, row in rows_of(path, needs):
        question, answer = (row["text"], "") if "text" in row else (row.get("question"), row.get("answer"))
        if not isinstance(question, str) or not isinstance(answer, str):
            raise ConfigError(f"{where}: needs {needs}: a value is missing or no string")
        label = f"{path.name.partition('.')[0]} {row.get('id', where.rpartition(':')[2])}"
        found.append(Problem(label, question, answer, answer))
    return found


def write_tables(problems: list[Problem], ngram: int, min_words: int, folder: Path) -> dict[str, int]:
    """Write what `read_tables` reads; gives how many problems are looked for by n-grams, as lines, and not at all.

    A prompt of `min_words` words is looked for by n-grams, and so is its demonstration if it is long enough. A shorter one with
    an answer is looked for as a line; without an answer it cannot be told from chance.
    """
    from tasks.filter.engine.compiled_ngrams import split_words

    words = np.diff(split_words(*lowered(_column([p.prompt for p in problems])))[2])
    long = [p for p, count in zip(problems, words, strict=True) if count >= min_words]
    short = [p for p, count in zip(problems, words, strict=True) if count < min_words and p.prompt.strip()]
    pieces: dict[str, str] = {}  # each text once
    for problem in long:
        for text in (problem.prompt, problem.demonstration):
            pieces.setdefault(text, problem.label)
    lines: dict[tuple[bytes, bytes], str] = {}
    for problem, prompt, answer in zip(
        short, _bare([p.prompt for p in short]), _bare([p.answer for p in short]), strict=True
    ):
        if answer:
            lines.setdefault((prompt, answer), problem.label)
    _write_pieces(list(pieces), ngram, min_words, folder)
    _write_lines(list(lines), folder)
    as_lines = sum(bool(p.answer.strip()) for p in short)
    labels = {"pieces": list(pieces.values()), "lines": list(lines.values())}
    (folder / "labels.json").write_text(json.dumps(labels))
    return {"by_ngrams": len(long), "as_lines": as_lines, "unsearched": len(problems) - len(long) - as_lines}


def _column(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def _bare(texts: list[str]) -> list[bytes]:
    """Without ASCII white space, in lower case as `lowered` makes it."""
    return [b"".join(text.encode().split()) for text in pc.utf8_lower(_column(texts)).to_pylist()]


def _write_pieces(texts: list[str], ngram: int, min_words: int, folder: Path) -> None:
    from tasks.filter.engine.compiled_ngrams import Pieces, piece_keys, seen_of, slots_of, split_words

    data, places = lowered(_column(texts))
    first_W, stop_W, words_Q = split_words(data, places)
    words = np.diff(words_Q)
    lengths_Q = np.where(words >= min_words, np.minimum(words, ngram), 0)
    keys_P, piece_P, word_P = piece_keys(data, first_W, stop_W, words_Q, lengths_Q)
    order = np.lexsort((word_P, piece_P, keys_P))
    keys_P, piece_P, word_P = keys_P[order], piece_P[order], word_P[order]
    _, place_P, count_K = np.unique(keys_P, return_inverse=True, return_counts=True)
    rare = count_K[place_P] <= MOST_PROBLEMS
    keys_P, piece_P, word_P = keys_P[rare], piece_P[rare], word_P[rare]
    keys_K, first_K = np.unique(keys_P, return_index=True)
    covered = np.zeros(len(first_W) + 1, np.int64)  # +1 where an n-gram begins, -1 after its end
    np.add.at(covered, words_Q[piece_P] + word_P, 1)
    np.add.at(covered, words_Q[piece_P] + word_P + lengths_Q[piece_P], -1)
    is_covered = np.concatenate(([0], np.cumsum(np.cumsum(covered)[:-1] > 0)))
    tables = Pieces(
        lengths=np.unique(lengths_Q[lengths_Q > 0]),
        keys_K=keys_K,
        slots=slots_of(keys_K),
        seen=seen_of(keys_K),
        postings_K=np.append(first_K, len(keys_P)),
        piece_P=piece_P,
        word_P=word_P,
        data=data,
        first_W=first_W,
        stop_W=stop_W,
        words_Q=words_Q,
        lengths_Q=lengths_Q,
        coverable_Q=np.diff(is_covered[words_Q]),
    )
    np.savez(folder / "pieces.npz", **tables._asdict())


def _write_lines(pairs: list[tuple[bytes, bytes]], folder: Path) -> None:
    from tasks.filter.engine.compiled_ngrams import slots_of
    from tasks.filter.engine.compiled_solutions import Solved, prompt_keys

    (prompts, prompts_R), (answers, answers_R) = (_joined([pair[i] for pair in pairs]) for i in (0, 1))
    is_length = np.zeros(max([len(prompt) for prompt, _ in pairs], default=0) + 2, bool)
    is_length[[len(prompt) for prompt, _ in pairs]] = True
    keys_R = prompt_keys(prompts, prompts_R)
    tables = Solved(prompts, prompts_R, answers, answers_R, is_length, keys_R, slots_of(keys_R))
    np.savez(folder / "lines.npz", **tables._asdict())


def _joined(texts: list[bytes]) -> Texts:
    places = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return np.frombuffer(b"".join(texts) or b"\0", np.uint8), places


@cached_by_file
def read_tables(labels: Path) -> tuple[Any, Any, dict[str, list[str]]]:
    """(Pieces, Solved, labels) that `write_tables` left; `labels` is the file labels.json in its folder."""
    from tasks.filter.engine.compiled_ngrams import Pieces
    from tasks.filter.engine.compiled_solutions import Solved

    with np.load(labels.with_name("pieces.npz")) as pieces, np.load(labels.with_name("lines.npz")) as lines:
        return Pieces(**pieces), Solved(**lines), json.loads(labels.read_text())

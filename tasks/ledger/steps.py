"""What the model saw: the documents of a step, the document of a token, and a step's batch made again of texts.

Letters: B sequences of a step, N tokens of a sequence.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lm.config import ConfigError
from tasks.ledger.run import AGAIN, Run

RANGES = """
    SELECT p.step, p.sequence, p.document, p."offset", p.length, d.id, d.source, d.start, d.length AS whole, p.position
    FROM (
        SELECT *, sum(length) OVER (PARTITION BY step, sequence ORDER BY number) - length AS position FROM plan WHERE {where}
    ) p JOIN documents d ON d.number = p.document ORDER BY p.number
"""


@dataclass(frozen=True)
class Token:
    """A token of a batch: its id and text, its document, how many tokens of that stand before it, and the text around it."""

    token: int
    text: str
    document: str
    source: str
    offset: int
    length: int
    before: str
    after: str


def ranges_of(run: Run, step: int, sequence: int | None = None) -> list[dict[str, Any]]:
    """The ranges of documents in a step, or in one of its sequences, in the order of the batch. `position`: where each begins
    in its sequence; `offset`: where in its document, which has `whole` tokens from `start` on in tokens.npy. Raises
    ConfigError where the plan has no such step or sequence."""
    where, values = ("step = ?", (step,)) if sequence is None else ("step = ? AND sequence = ?", (step, sequence))
    found = run.rows(RANGES.format(where=where), *values)
    if not found:
        (last,) = run.rows("SELECT max(step) AS step FROM plan")
        if last["step"] is None:
            raise ConfigError(f"{run.data / 'curriculum' / 'plan.parquet'}: no such table; has curriculum run?")
        if sequence is None or not 0 <= step <= last["step"]:
            raise ConfigError(f"STEP={step}: the plan has steps 0 to {last['step']}")
        (last,) = run.rows("SELECT max(sequence) AS sequence FROM plan WHERE step = ?", step)
        raise ConfigError(f"SEQUENCE={sequence}: step {step} has sequences 0 to {last['sequence']}")
    return found


def documents_of(run: Run, step: int) -> list[dict[str, Any]]:
    """id, source, tokens, share of the step's tokens and number of ranges of each document, most tokens first. The step has it
    from token `start` of tokens.npy on; what is from `end` on there is the next document's."""
    ranges_of(run, step)
    return run.rows(
        """SELECT d.number AS document, d.id, d.source, sum(p.length)::bigint AS tokens, count(*) AS ranges,
                  sum(p.length) / sum(sum(p.length)) OVER () AS share, min(d.start + "offset") AS start,
                  any_value(d.start + d.length) AS "end"
           FROM plan p JOIN documents d ON d.number = p.document WHERE step = ? GROUP BY ALL ORDER BY tokens DESC, document""",
        step,
    )


def token_at(run: Run, step: int, sequence: int, position: int, around: int = 24) -> Token:
    """The token at a position of a sequence, with `around` tokens of its document before and after it."""
    ranges = ranges_of(run, step, sequence)
    mine = [row for row in ranges if row["position"] <= position < row["position"] + row["length"]]
    if not mine:
        (whole,) = run.rows("SELECT sum(length) AS length FROM plan WHERE step = ? AND sequence = ?", step, sequence)
        if 0 <= position < whole["length"]:
            raise ConfigError(f"POSITION={position}: is of a prefix or padding, and of no document")
        raise ConfigError(
            f"POSITION={position}: sequence {sequence} of step {step} has positions 0 to {whole['length'] - 1}"
        )
    row = mine[0]
    offset = int(row["offset"] + position - row["position"])
    first, end = row["start"], row["start"] + row["whole"]
    place = first + offset
    decode, tokens = run.tokenizer.decode, run.tokens
    return Token(
        token=int(tokens[place]),
        text=decode([int(tokens[place])]) if tokens[place] != run.tokenizer.eos_id else "<end of document>",
        document=row["id"],
        source=row["source"],
        offset=offset,
        length=row["whole"],
        before=decode(tokens[max(first, place - around) : place].tolist()),
        after=decode(tokens[place + 1 : min(end, place + 1 + around)].tolist()),
    )


def rebuild(run: Run, step: int) -> np.ndarray:
    """ids_BN of the step, as lm/training/data/plan.py gives them, made of the documents' texts: encoded again, cut as planned.
    Prefixes and padding are in no text; they come from prefixes.npy.

    Raises ConfigError naming a document whose text no longer has the tokens that the plan cuts.
    """
    names = {row["document"]: row["id"] for row in ranges_of(run, step)}
    ranges = run.rows('SELECT sequence, document, "offset", length FROM plan WHERE step = ? ORDER BY number', step)
    texts = run.texts(list(names))
    encoded, before = run.tokenizer.encode_batch(list(texts.values())), run.tokenizer.before
    after = [*run.tokenizer.after, run.tokenizer.eos_id]
    tokens = {row: [*before, *ids, *after] for row, ids in zip(texts, encoded, strict=True)}
    pieces: list[int] = []
    for row in ranges:
        document = row["document"]
        whole = tokens[document] if document >= 0 else run.prefixes
        piece = whole[row["offset"] : row["offset"] + row["length"]]
        if len(piece) < row["length"]:
            raise ConfigError(
                f"{names.get(document, 'prefixes.npy')}: its text has {len(whole)} tokens, too few; {AGAIN}"
            )
        pieces.extend(piece)
    return np.array(pieces, dtype=np.int64).reshape(ranges[-1]["sequence"] + 1, -1)

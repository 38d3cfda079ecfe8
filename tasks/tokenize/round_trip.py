"""How much of the corpus a tokenizer does not give back, such as capitals or unknown characters."""

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from lm.tokenizer import Tokenizer

# What is encoded and decoded to see whether text comes back: 256 texts, the front of each.
TEXTS, CHARACTERS = 256, 4096
# Of the characters that may be lost. Lower case alone loses 3% of English; what loses a tenth was made for other texts.
MOST_LOST = 0.1


def round_trip_losses(tokenizer: Tokenizer, texts: list[str]) -> tuple[int, Counter[str]]:
    """(how many texts do not come back from their ids, the characters that are then missing and how often)."""
    missing, changed = Counter[str](), 0
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        back = tokenizer.decode(ids)
        changed += back != text
        missing += Counter(text) - Counter(back)
    return changed, missing


def share_lost(tokenizer: Tokenizer, texts: Iterator[str], path: Path) -> float:
    """The share of the characters of a sample that is lost, which a line says where a text does not come back.

    path: where the tokenizer is from. Raises ValueError where more than MOST_LOST is lost.
    """
    sample = [text[:CHARACTERS] for text in islice(texts, TEXTS)]
    changed, missing = round_trip_losses(tokenizer, sample)
    if not changed:
        return 0.0
    share = missing.total() / sum(map(len, sample))
    such = "".join(character for character, _ in missing.most_common(8))
    said = (
        f"{path}: of {len(sample)} texts {changed} do not come back as they were, and "
        f"{share:.2%} of the characters are lost" + (f", such as {such!r}" if such else "")
    )
    if share > MOST_LOST:
        raise ValueError(f"{said}: it was made for other texts; choose another checkpoint, or tokenize.method bpe")
    print(
        f"tokenize: {said}; models do not write them, and their bits per byte, which count the bytes of the text as it was, "
        "cannot be compared with those of a tokenizer that keeps it",
        file=sys.stderr,
    )
    return share

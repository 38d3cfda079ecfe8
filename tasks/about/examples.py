"""Examples of what a stage learns from, as rooms give them and a terminal shows them."""

from collections.abc import Sequence
from typing import NamedTuple

from tasks.runner.harmless import harmless

# Learned in full, and in part; what is only read is dim
FULL, PART, READ, PLAIN = "\x1b[1;32m", "\x1b[33m", "\x1b[2m", "\x1b[0m"


class Piece(NamedTuple):
    """Some text, and how much each of its tokens counts in the loss: 0 of what is only read."""

    text: str
    weight: float


def render_example(pieces: Sequence[Piece], coloured: bool) -> str:
    """An example with its pieces coloured by their weights; without colours what is learned stands in brackets, a weight other
    than 1 behind it. Of the texts themselves a terminal obeys nothing."""
    pieces = [p._replace(text=harmless(p.text)) for p in pieces]
    if coloured:
        return "".join(f"{FULL if p.weight >= 1 else PART if p.weight else READ}{p.text}{PLAIN}" for p in pieces)
    return "".join(
        p.text if not p.weight else f"[[{p.text}]]" if p.weight == 1 else f"[[{p.text}]]*{p.weight:g}" for p in pieces
    )

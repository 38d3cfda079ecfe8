"""Training-time markers: a question says what kind of example it is, as far as it is told, and the answer says all of it
(D'souza et al. 2025, "Treasure Hunt", arXiv:2506.14702).

A model that has to say the markers which its question keeps silent about learns to infer them, and whoever gives some steers
it, to kinds of which there are few examples too.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import ConfigError
from lm.conversations.dialogue import Dialogue
from tasks.sft.formats.base import Format, last_exchange, replace_exchange, texts, uniform_draw

BANDS = ("short", "medium", "long")


def marked(markers: dict[str, str], text: str) -> str:
    """`[name: value]` of each marker, by their names in order, and the text."""
    return " ".join([*(f"[{name}: {value}]" for name, value in sorted(markers.items())), text])


def bands(lengths: Sequence[int]) -> list[str]:
    """Name of the third of all lengths that each of them lies in; equal ones in the same, the lower."""
    edges = np.quantile(lengths, [1 / 3, 2 / 3])
    return [BANDS[int(place)] for place in np.searchsorted(edges, lengths, side="left")]


class Markers(Format):
    """Markers are those of a row's field `markers`, and the `level` of a problem. Which a question shows is drawn once a row.

    Differs from the paper: its markers come from a taxonomy of ninety, part of it given by a model; how they are spelled, and
    the shares that are dropped, are ours.
    """

    name: Literal["markers"] = "markers"
    silent: float = Field(0.5, ge=0, le=1, description="share of the rows whose question shows no marker")
    dropped: float = Field(
        0.5, ge=0, le=1, description="share of the markers that the questions of the other rows keep back"
    )
    length: bool = Field(True, description="mark an answer as short, medium or long, by thirds of the source's rows")
    predicted: bool = Field(
        True,
        description="an answer begins with all markers; off for a verifier that reads an answer from its first word on",
    )

    def __call__(self, dialogues: Sequence[Dialogue], seed: int) -> list[list[Dialogue]]:
        places = [last_exchange(dialogue) for dialogue in dialogues]
        there = [(d, place) for d, place in zip(dialogues, places, strict=True) if place is not None]
        found = iter(bands([len(texts(d, place)[1]) for d, place in there]) if there and self.length else [])
        written = []
        for dialogue, place in zip(dialogues, places, strict=True):
            own = {"length": next(found)} if place is not None and self.length else {}
            markers = {**own, **dialogue.markers}
            written.append([dialogue if place is None else self._written(dialogue, place, markers, seed)])
        if there and not self.length and not any(dialogue.markers for dialogue, _ in there):
            raise ConfigError(
                "sft.sources: format markers: no row has an object of texts or numbers in the field `markers`: give them "
                "some, or take `length: true`"
            )
        return written

    def _written(self, dialogue: Dialogue, place: int, markers: dict[str, str], seed: int) -> Dialogue:
        asked, answered = texts(dialogue, place)
        speaks = uniform_draw("silent", seed, dialogue) >= self.silent
        shown = {
            n: m for n, m in markers.items() if speaks and uniform_draw(f"marker {n}", seed, dialogue) >= self.dropped
        }
        return replace_exchange(
            dialogue, place, marked(shown, asked), marked(markers, answered) if self.predicted else answered
        )

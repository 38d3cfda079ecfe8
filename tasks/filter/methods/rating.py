"""A threshold on a rating that documents bring with them (AlpaGasus, Chen et al. 2023, arXiv:2307.08701).

AlpaGasus asks a strong model to rate instruction data from 0 to 5 and keeps what gets 4.5 or more: 9,229 of Alpaca's 52,002,
which train a better model than all of them. [Not implemented]: the rating itself; it is a number in the meta of a document.
"""

import json
import math
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.filter.rule import Batch, Judgement, Setting


def rating_of(meta: str, field: str) -> float | str:
    """The number in a field of a JSON object, else the reason why there is none. Text that spells a number, true and what is
    not finite are no numbers; a field inside another is named `outer.inner`."""
    value = json.loads(meta)
    for name in field.split("."):
        if not isinstance(value, dict) or value.get(name) is None:
            return "missing_rating"
        value = value[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "invalid_rating"
    try:
        number = float(value)
    except OverflowError:
        return "invalid_rating"
    return number if math.isfinite(number) else "invalid_rating"


class Rating(Config):
    name: Literal["rating"] = "rating"
    sources: list[str] | None = Field(None, description="judge the documents of these sources; all when absent")
    field: str = Field("score", min_length=1, description="of the documents' meta")
    threshold: float = Field(4.5, description="documents rated lower go")
    unrated: Literal["drop", "keep"] = Field("drop", description="what becomes of a document without a valid rating")

    def prepare(self, setting: Setting) -> None:
        """Do nothing: a document says all there is to know."""

    def judge(self, batch: Batch, folder: Path) -> Judgement:
        """score_rating is the rating, NaN where there is none."""
        ratings = [rating_of(meta, self.field) for meta in batch.meta.to_pylist()]
        reasons, scores = np.full(len(ratings), None, dtype=object), np.full(len(ratings), np.nan, np.float32)
        for row, rating in enumerate(ratings):
            if isinstance(rating, str):
                reasons[row] = rating if self.unrated == "drop" else None
            else:
                scores[row] = np.float32(min(max(rating, -3e38), 3e38))
                reasons[row] = f"low_rating: {rating:g}" if rating < self.threshold else None
        return Judgement(reasons, scores={"rating": scores})

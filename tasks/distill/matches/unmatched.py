"""Nothing but what both models say is compared."""

from typing import Literal

from lm.model import Decoder
from tasks.distill.matches.base import Matches, Matching


class Unmatched(Matches):
    name: Literal["unmatched"] = "unmatched"

    def open(self, student: Decoder, teacher: Decoder, seed: int) -> Matching | None:
        return None

"""Arithmetic worksheets, made up: solved sums from the operand pairs that no later stage uses."""

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Literal

from pydantic import Field

from lm.config import Config
from lm.problems.arithmetic import Arithmetic
from tasks.ingest.sources.records import Record, Rejected


class Worksheets(Config):
    name: Literal["worksheets"] = "worksheets"
    label: str | None = Field(None, description="the documents' source; the method's name when absent")
    weight: float = Field(1.0, gt=0, description="share of ingest.max_bytes, relative to the other sources")
    digits: int = Field(2, ge=1, le=3)
    lines_per_document: int = Field(24, gt=0)

    def __call__(self, folder: Path, max_bytes: int, seed: int) -> Iterator[Record | Rejected]:
        """Endless: the byte budget ends it."""
        lines = Arithmetic(digits=self.digits).worksheet_lines(seed)
        for sheet in count(1):
            yield Record("worksheet", sheet, "".join(f"{line}\n" for line in islice(lines, self.lines_per_document)))

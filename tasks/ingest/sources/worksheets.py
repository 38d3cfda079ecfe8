"""Arithmetic worksheets, made up: solved sums from the operand pairs that no later stage uses.

A sheet that is to be held out is filled from a share of the pairs that no other sheet has: sums come again from sheet to sheet.
"""

from collections.abc import Iterator
from itertools import count, islice
from math import ceil
from typing import ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from lm.problems.arithmetic import Arithmetic
from tasks.core.held_out import HELD_OUT
from tasks.ingest.sources.base import File, Record, Rejected, Source
from tasks.ingest.sources.rows import to_batches, to_json


class Worksheets(Source):
    name: Literal["worksheets"] = "worksheets"
    digits: int = Field(2, ge=1, le=3)
    lines_per_document: int = Field(24, gt=0)
    held_out_fraction: float = Field(
        0.05, ge=0, lt=1, description="of the sheets; tokenize holds out these and no other sheet"
    )

    endless: ClassVar[bool] = True

    def files(self, folder: str) -> list[File]:
        return [File("worksheet", "worksheet")]

    def read(self, file: File, seed: int) -> Iterator[pa.RecordBatch | Rejected]:
        yield from to_batches(self.rows(seed))

    def rows(self, seed: int) -> Iterator[Record]:
        """Worksheets without end: the byte budget ends them."""
        arithmetic = Arithmetic(digits=self.digits)
        lines = [arithmetic.worksheet_lines(seed, split) for split in ("worksheets", "held_out")]
        metas = [to_json({HELD_OUT: held_out}) for held_out in (False, True)]
        for sheet in count(1):
            # the first, then every so many: the share is exact wherever the budget ends
            held_out = ceil(sheet * self.held_out_fraction) > ceil((sheet - 1) * self.held_out_fraction)
            text = "".join(f"{line}\n" for line in islice(lines[held_out], self.lines_per_document))
            yield Record(sheet, text, f"{self.called}:worksheet:{sheet}", metas[held_out])

"""JSON lines, plain or compressed by gzip or zstd: one object a line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from lm.config import Config
from tasks.ingest.sources.records import Record, Rejected, matching, read_json_lines


class Jsonl(Config):
    """Files are read in the order of their names, until the source's share of the bytes is used up."""

    name: Literal["jsonl"] = "jsonl"
    label: str | None = Field(None, description="the documents' source; the method's name when absent")
    weight: float = Field(1.0, gt=0, description="share of ingest.max_bytes, relative to the other sources")
    path: str = Field(description="glob relative to ingest.folder")
    text_field: str = "text"
    id_field: str = "id"
    max_line_bytes: int = Field(16 << 20, gt=0, description="longer lines are quarantined without being held")

    def __call__(self, folder: Path, max_bytes: int, seed: int) -> Iterator[Record | Rejected]:
        for path in matching(folder, self.path, self.label or self.name):
            name = path.relative_to(folder).as_posix()
            yield from read_json_lines(path, name, self.text_field, self.id_field, self.max_line_bytes)

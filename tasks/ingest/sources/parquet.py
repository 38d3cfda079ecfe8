"""Parquet files with a column of texts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from lm.config import Config
from tasks.ingest.sources.records import Record, Rejected, check_text, excerpt_of, matching


def read_parquet(path: Path, name: str, text_field: str, id_field: str) -> Iterator[Record | Rejected]:
    """The rows of one file, batch by batch."""
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            if text_field not in file.schema_arrow.names:
                yield Rejected(name, 0, "missing_text", excerpt_of(f"columns: {', '.join(file.schema_arrow.names)}"))
                return
            columns = [field for field in (text_field, id_field) if field in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                for value in batch.to_pylist():
                    row += 1
                    yield check_text(name, row, value[text_field], value.get(id_field))
    except (OSError, pa.ArrowException) as error:
        yield Rejected(name, row, "unreadable", excerpt_of(f"{type(error).__name__}: {error}"))


class Parquet(Config):
    """Files are read in the order of their names, until the source's share of the bytes is used up."""

    name: Literal["parquet"] = "parquet"
    label: str | None = Field(None, description="the documents' source; the method's name when absent")
    weight: float = Field(1.0, gt=0, description="share of ingest.max_bytes, relative to the other sources")
    path: str = Field(description="glob relative to ingest.folder")
    text_field: str = "text"
    id_field: str = "id"

    def __call__(self, folder: Path, max_bytes: int, seed: int) -> Iterator[Record | Rejected]:
        for path in matching(folder, self.path, self.label or self.name):
            yield from read_parquet(path, path.relative_to(folder).as_posix(), self.text_field, self.id_field)

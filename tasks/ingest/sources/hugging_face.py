"""A data set of the Hugging Face hub by its name, or a folder of this machine that is laid out as one."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from tasks.core.config import ConfigError
from tasks.core.hashed import hashed, read_ignored
from tasks.ingest.sources.base import Columns, File, Record, Rejected, below_folder
from tasks.ingest.sources.rows import record_of, to_batches


class HuggingFace(Columns):
    """Read as a stream by the `datasets` library, never stored: each of the data set's own shards is a file here."""

    name: Literal["hugging_face"] = "hugging_face"
    dataset: str = Field(description="a name such as HuggingFaceFW/fineweb, or a folder relative to ingest.folder")
    config: str | None = None
    split: str = "train"
    revision: str | None = Field(None, description="a commit of the hub; without one the newest is read")
    shards: int | None = Field(None, gt=0, description="read only so many of its shards, evenly spaced")

    @field_validator("dataset")
    @classmethod
    def _stays_below(cls, dataset: str) -> str:
        return below_folder(dataset)

    def files(self, folder: str) -> list[File]:
        """Raises ConfigError when there is no such data set, or it cannot be reached."""
        local = Path(folder) / self.dataset
        if local.is_dir():
            self._check_hashed(local)
        where = str(local) if local.is_dir() else self.dataset
        try:
            count = self._open(where).num_shards
        except Exception as error:  # the library raises errors of many kinds of its own
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ConfigError(f"ingest.sources: {self.called}: {where}: {what}"[:400]) from None
        wanted = min(self.shards or count, count)
        return [
            File(
                f"{number}/{count} {where}", f"{self.dataset}/{number:05}", tag=self.revision, remote=not local.is_dir()
            )
            for number in (index * count // wanted for index in range(wanted))
        ]

    def _check_hashed(self, local: Path) -> None:
        """Raises ConfigError naming a file that the library would read and DVC does not hash, such as one behind a link."""
        import datasets

        try:
            parts = datasets.load_dataset_builder(str(local), self.config).config.data_files or {}
        except Exception:
            return  # what is wrong with it is told when it is opened
        kept = {os.path.abspath(path) for path in hashed(local, read_ignored()).files}
        for path in sorted(os.path.abspath(path) for paths in parts.values() for path in paths if "://" not in path):
            if path not in kept:
                raise ConfigError(
                    f"ingest.sources: {self.called}: {path} is part of {local}, but DVC does not look there: move it into it"
                )

    def _open(self, where: str) -> Any:
        import datasets

        return datasets.load_dataset(where, self.config, split=self.split, revision=self.revision, streaming=True)

    def read(self, file: File, seed: int) -> Iterator[pa.RecordBatch | Rejected]:
        yield from to_batches(self._rows(file))

    def _rows(self, file: File) -> Iterator[Record | Rejected]:
        place, _, where = file.path.partition(" ")
        number, count = map(int, place.split("/"))
        for row, value in enumerate(self._open(where).shard(count, number), 1):
            yield record_of(row, value, self)

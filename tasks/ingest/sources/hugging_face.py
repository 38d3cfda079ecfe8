"""A data set of the Hugging Face hub by its name, or a folder of this machine that is laid out as one or was saved to disk."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
from pydantic import BaseModel, Field, ValidationError, field_validator

from lm.config import mistakes
from lm.inputs.compressed import SUFFIXES
from lm.inputs.hashed import read_ignored, scan_dependency
from tasks.core.config import ConfigError
from tasks.ingest.sources.arrow_rows import read_arrow
from tasks.ingest.sources.base import Columns, File, Record, Rejected, below_folder, excerpt_of
from tasks.ingest.sources.csv import Csv
from tasks.ingest.sources.files import local_file
from tasks.ingest.sources.jsonl import Jsonl
from tasks.ingest.sources.parquet import Parquet
from tasks.ingest.sources.rows import record_of, to_batches

ARROW, STREAM = "arrow", "stream"
# Loaders of the library whose files are read here: one by one, so that they may differ in their columns.
READERS: dict[str, Any] = {"json": Jsonl, "parquet": Parquet, "csv": Csv}
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"
# Endings of data, of which a folder's most frequent kind is read; and files that say something of it.
DATA = {".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".txt"}
ABOUT = {SAVED, SAVED_SPLITS, "dataset_info.json", "dataset_infos.json", "LICENSE.txt", "README.txt"}


Read = TypeVar("Read", bound=BaseModel)


class _Part(BaseModel):
    filename: str


class _Saved(BaseModel):
    """What is read of SAVED."""

    files: list[_Part] = Field(alias="_data_files")


class _Splits(BaseModel):
    """What is read of SAVED_SPLITS."""

    splits: list[str]


def _saved(path: Path, kind: type[Read]) -> Read:
    """What a file of save_to_disk says. Raises ValueError naming it."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(
            f"{path.name}: {mistakes(error)}: it is not as save_to_disk writes it: copy the folder again"
        ) from None


def _kind(path: Path) -> str:
    """The ending of a file's name, without that of its compression."""
    return (path.with_suffix("") if path.suffix in SUFFIXES else path).suffix.lower()


class HuggingFace(Columns):
    """A data set of the hub is read as a stream by the `datasets` library, never stored: each of its shards is a file here. Of
    a folder of this machine the library says which files are meant; JSON, Parquet, CSV and Arrow are read as by the sources."""

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
        where = str(local) if local.is_dir() else self.dataset
        try:
            found = (self._local_files(local, Path(folder)) if local.is_dir() else None) or self._shards(where, local)
        except ConfigError:
            raise
        except Exception as error:  # the library raises errors of many kinds of its own
            kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
            raise self._wrong(f"{where}: {kind}{' '.join(str(error).split())}"[:400]) from None
        if not found:
            raise self._wrong(f"{where}: no file of its split {self.split!r}: name another")
        wanted = min(self.shards or len(found), len(found))
        return [found[index * len(found) // wanted] for index in range(wanted)]

    def _local_files(self, local: Path, top: Path) -> list[File] | None:
        """The files of a folder as `kind path`; None where the library alone can read them."""
        if (local / SAVED_SPLITS).is_file():
            splits = _saved(local / SAVED_SPLITS, _Splits).splits
            if self.split not in splits:
                raise ValueError(f"no split {self.split!r}; there are {', '.join(splits)}")
            local = local / self.split
        if (local / SAVED).is_file():
            kind, parts = ARROW, _saved(local / SAVED, _Saved).files
            paths = [Path(os.path.abspath(local / part.filename)) for part in parts]
            for path in paths:
                if not path.exists():
                    raise self._wrong(f"{path}: missing, and {local / SAVED} names it: copy the whole folder again")
        else:
            kind, paths = self._meant_files(local)
        self._check_hashed(top / self.dataset, paths)
        if kind != ARROW and kind not in READERS:
            return None
        found = [local_file(path, Path(os.path.abspath(top))) for path in paths]
        return [File(f"{kind} {file.path}", file.name, file.bytes) for file in found]

    def _meant_files(self, local: Path) -> tuple[str, list[Path]]:
        """(loader, files of the split) as the library understands a folder."""
        import datasets

        builder = datasets.load_dataset_builder(str(local), self.config)
        meant = builder.config.data_files or {}
        if self.split not in meant:
            raise ValueError(f"no split {self.split!r}; there are {', '.join(map(str, meant)) or 'none'}")
        self._say_left(local, [Path(path) for paths in meant.values() for path in paths])
        plain = getattr(builder.config, "field", None) is None and getattr(builder.config, "sep", ",") == ","
        plain &= not any("://" in path for path in meant[self.split])  # inside an archive
        return (builder.name if plain else STREAM), [
            Path(os.path.abspath(path)) for path in meant[self.split] if "://" not in path
        ]

    def _say_left(self, local: Path, meant: list[Path]) -> None:
        """Name the files of data that are not read because they are of another kind than those that are meant."""
        kinds = {_kind(path) for path in meant}
        if not kinds & DATA:
            return
        names = [
            path.relative_to(local).as_posix()
            for path in scan_dependency(local, read_ignored()).files
            if _kind(path) in DATA - kinds and path.name not in ABOUT
        ]
        if names:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            print(
                f"ingest: {self.called}: {local}: {len(names)} not read beside {', '.join(sorted(kinds & DATA))}, the one kind "
                f"that is read of a folder: {shown}: read those by a source of their own",
                file=sys.stderr,
                flush=True,
            )

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(f"ingest.sources: {self.called}: {what}")

    def _shards(self, where: str, local: Path) -> list[File]:
        count = self._open(where).num_shards
        return [
            File(
                f"{STREAM} {number}/{count} {where}",
                f"{self.dataset}/{number:05}",
                tag=self.revision,
                remote=not local.is_dir(),
            )
            for number in range(count)
        ]

    def _check_hashed(self, local: Path, paths: list[Path]) -> None:
        """Raises ConfigError naming a file of the data set that DVC does not hash, such as one behind a link."""
        kept = {os.path.abspath(path) for path in scan_dependency(local, read_ignored()).files}
        for path in sorted(map(os.path.abspath, paths)):
            if path not in kept:
                raise self._wrong(f"{path} is part of {local}, but DVC does not look there: move it into it")

    def _open(self, where: str) -> Any:
        import datasets

        return datasets.load_dataset(where, self.config, split=self.split, revision=self.revision, streaming=True)

    def read(self, file: File, seed: int) -> Iterator[pa.RecordBatch | Rejected]:
        kind, _, path = file.path.partition(" ")
        if kind == STREAM:
            yield from to_batches(self._rows(file, path))
            return
        plain = File(path, file.name, file.bytes)
        if kind == ARROW:
            yield from read_arrow(plain, self)
            return
        fields = {"text_field": self.text_field, "id_field": self.id_field, "meta_fields": self.meta_fields}
        yield from READERS[kind](path="*", label=self.called, **fields).read(plain, seed)

    def _rows(self, file: File, place: str) -> Iterator[Record | Rejected]:
        part, _, where = place.partition(" ")
        number, count = map(int, part.split("/"))
        row = 0
        try:
            for row, value in enumerate(self._open(where).shard(count, number), 1):
                yield record_of(row, value, self)
        except (
            Exception
        ) as error:  # of many kinds: the rest of a shard whose rows its own columns do not fit, and others
            if file.remote and isinstance(error, OSError):
                raise
            yield Rejected(row + 1 if row else 0, "unreadable", excerpt_of(f"{type(error).__name__}: {error}"))

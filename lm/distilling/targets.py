"""Targets on disk: a Parquet file of what a teacher finds the likeliest at each token, in the order in which steps ask for it.

A row is a sequence, a row group a step: first its problems with their answers, then its text. Letters: T tokens that are
predicted, K tokens that are told apart, C = K + 1 with all others as one.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xxhash
from pydantic import ValidationError
from torch import Tensor

from lm.config import Config, ConfigError, mistakes
from lm.temperature import Divisor, Temperature

FILE = "targets.parquet"
HEADER = b"targets"


class Header(Config):
    """What the targets are of. batch: problems a step; texts: sequences of text in it, at most; top_k: K; temperature: of the
    distributions; answers and answer_temperature: who wrote them; tokenizer: digest of tokenizer.json."""

    steps: int
    batch: int
    texts: int
    max_new_tokens: int
    top_k: int
    temperature: Divisor
    answers: str
    answer_temperature: Temperature
    vocabulary: int
    numbers: Literal["float16", "float32"]
    tokenizer: str


@dataclass(frozen=True)
class Row:
    """A sequence: its ids, of which those from `first` on are predicted, and top_TK and logp_TC of each of these."""

    ids: list[int]
    first: int
    top_TK: Tensor
    logp_TC: Tensor


def digest_of(text: str) -> str:
    """xxh3 of a text, in hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(text.encode())


class TargetWriter:
    """Writes the steps, one after the other; equal targets give equal bytes."""

    def __init__(self, folder: Path, header: Header) -> None:
        self.header = header
        kind = pa.uint16() if header.vocabulary <= 2**16 else pa.uint32()
        number = pa.float16() if header.numbers == "float16" else pa.float32()
        columns = {"step": pa.int32(), "first": pa.int32(), "ids": pa.list_(kind), "top": pa.list_(kind)}
        said = {HEADER: json.dumps(header.model_dump(), sort_keys=True)}
        self._schema = pa.schema({**columns, "logp": pa.list_(number)}, said)
        self._file = pq.ParquetWriter(
            folder / FILE, self._schema, compression="zstd", version="2.6", write_statistics=False, use_dictionary=False
        )
        self._steps = 0

    def add(self, rows: list[Row]) -> None:
        """The next step's."""
        number = np.float16 if self.header.numbers == "float16" else np.float32
        table = {
            "step": [self._steps] * len(rows),
            "first": [row.first for row in rows],
            "ids": [row.ids for row in rows],
            "top": [row.top_TK.flatten().numpy() for row in rows],
            "logp": [row.logp_TC.flatten().numpy().astype(number) for row in rows],
        }
        self._file.write_table(pa.table(table, self._schema), row_group_size=max(1, len(rows)))
        self._steps += 1

    def __enter__(self) -> "TargetWriter":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


class StoredTargets:
    """The targets in a folder. Raises ConfigError that names the file where it is missing, torn or of something else."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        try:
            self._file = pq.ParquetFile(self.path)
        except (OSError, ValueError) as error:  # pyarrow's errors are among them
            raise ConfigError(f"{self.path}: cannot be read: {' '.join(str(error).split())}") from None
        said = (self._file.schema_arrow.metadata or {}).get(HEADER, b"{}")
        try:
            self.header = Header.model_validate_json(said)
        except ValidationError as error:
            raise ConfigError(f"{self.path}: holds no targets: {mistakes(error)}") from None
        if self._file.num_row_groups != self.header.steps:
            raise ConfigError(
                f"{self.path}: has {self._file.num_row_groups} steps of {self.header.steps}: make it anew"
            )

    def digest(self) -> str:
        """xxh3 of the file."""
        found = xxhash.xxh3_64()
        with self.path.open("rb") as file:
            while piece := file.read(1 << 24):
                found.update(piece)
        return found.hexdigest()

    def at(self, step: int) -> list[Row]:
        """The rows of a step; logp in fp32."""
        try:
            table = self._file.read_row_group(step)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path}: step {step} cannot be read: {' '.join(str(error).split())}") from None
        ids, top, logp = (_pieces(table[name]) for name in ("ids", "top", "logp"))
        K, found = self.header.top_k, []
        for row, first in enumerate(table["first"].to_pylist()):
            top_TK = torch.from_numpy(top[row].astype(np.int64)).view(-1, K)
            logp_TC = torch.from_numpy(logp[row].astype(np.float32)).view(-1, K + 1)
            if self.header.numbers == "float16":  # what is rounded adds up to 1 no more
                logp_TC = logp_TC.log_softmax(-1)
            found.append(Row(ids[row].tolist(), first, top_TK, logp_TC))
        return found

    def check(self, **wanted: Any) -> None:
        """Raise ConfigError, of a line, for what a run wants, by the names of Header, and these targets are not: as many steps
        and as large a top_k at least, all else as it is."""
        for name, value in wanted.items():
            has = getattr(self.header, name)
            if has < value if name in ("steps", "top_k") else has != value:
                raise ConfigError(
                    f"{self.path}: was made with {name} {has!r}, and {value!r} is asked for: set both alike"
                )


def _pieces(column: pa.ChunkedArray) -> list[np.ndarray]:
    """The lists of a column."""
    array = column.combine_chunks()
    values, offsets = array.values.to_numpy(zero_copy_only=False), array.offsets.to_numpy()
    return [values[start:end] for start, end in zip(offsets[:-1], offsets[1:], strict=True)]

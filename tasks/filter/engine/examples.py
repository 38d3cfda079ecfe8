"""Example texts to learn from: a file or a folder of text files, JSON lines or Parquet."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lm.problems.files import rows_of
from tasks.core.arrow_text import as_text, is_text
from tasks.core.config import ConfigError
from tasks.core.hashed import hashed, read_ignored

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
NEEDS = "a JSON object with a string `text`"


def read_examples(key: str, path: Path, most: int) -> list[str]:
    """The first `most` texts of the files, by name. Raises ConfigError naming the key, or the file and line, at fault."""
    files = [path] if path.is_file() else [f for f in hashed(path, read_ignored()).files if f.name.endswith(SUFFIXES)]
    texts = list(islice((text for file in files for text in _texts(file) if text.strip()), most))
    if not texts:
        raise ConfigError(f"{key}: {path}: no text in it; give a file or a folder of {', '.join(SUFFIXES)} with `text`")
    return texts


def _texts(file: Path) -> Iterator[str]:
    if file.suffix == ".txt":
        yield file.read_text(encoding="utf-8", errors="replace")
    elif file.suffix == ".parquet":
        yield from _of_parquet(file)
    else:
        for where, row in rows_of(file, NEEDS):
            if not isinstance(row.get("text"), str):
                raise ConfigError(f"{where}: needs {NEEDS}")
            yield row["text"]


def _of_parquet(file: Path) -> Iterator[str]:
    try:
        with pq.ParquetFile(file) as table:
            kinds = table.schema_arrow
            if "text" not in kinds.names or not is_text(kinds.field("text").type):
                there = ", ".join(f"{field.name} ({field.type})" for field in kinds)
                raise ConfigError(f"{file}: needs a column `text` of strings; it has {there}")
            for batch in table.iter_batches(columns=["text"]):
                yield from as_text(batch["text"], pa.large_string()).drop_null().to_pylist()
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not a Parquet file that can be read: {' '.join(str(error).split())}") from None

"""Example texts to learn from: a file or a folder of text files, JSON lines or Parquet."""

import gzip
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.config import ConfigError
from tasks.core.hashed import hashed, read_ignored

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")


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
        try:
            with pq.ParquetFile(file) as table:
                for batch in table.iter_batches(columns=["text"]):
                    yield from (text for text in batch["text"].to_pylist() if text)
        except (pa.ArrowInvalid, KeyError) as error:
            raise ConfigError(f"{file}: not Parquet with a column `text`: {error}") from None
    else:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    text = json.loads(line)["text"]
                    text.encode()
                except (json.JSONDecodeError, KeyError, TypeError, AttributeError, UnicodeError) as error:
                    raise ConfigError(f"{file}:{number}: needs a JSON object with a string `text`: {error!r}") from None
                yield text

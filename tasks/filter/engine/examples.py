"""Example texts to learn from: a file or a folder of text files, JSON lines or Parquet."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from lm.config import ConfigError
from lm.inputs.columns import texts_of
from lm.inputs.hashed import hashed_files
from lm.inputs.text import LINES, text_of
from lm.problems.files import rows_of

SUFFIXES = (".txt", *LINES, ".parquet")
NEEDS = "a JSON object with a string `text`"


def read_examples(key: str, path: Path, most: int) -> list[str]:
    """The first `most` texts of the files, by name. Raises ConfigError naming the key, or the file and line, at fault."""
    texts = list(islice((text for file in files_of(path) for text in _texts(file) if text.strip()), most))
    if not texts:
        raise ConfigError(f"{key}: {path}: no text in it; give a file or a folder of {', '.join(SUFFIXES)} with `text`")
    return texts


def files_of(path: Path) -> list[Path]:
    """The file, or those of a folder, by name."""
    return [path] if path.is_file() else [file for file in hashed_files(path) if file.name.endswith(SUFFIXES)]


def _texts(file: Path) -> Iterator[str]:
    if file.suffix == ".txt":
        yield text_of(file)
    elif file.suffix == ".parquet":
        yield from _of_parquet(file)
    else:
        for where, row in rows_of(file, NEEDS):
            if not isinstance(row.get("text"), str):
                raise ConfigError(f"{where}: needs {NEEDS}")
            yield row["text"]


def _of_parquet(file: Path) -> Iterator[str]:
    for texts in texts_of(file, "text"):
        try:
            yield from texts.to_pylist()
        except UnicodeDecodeError:
            raise ConfigError(
                f"{file}: a text in the column `text` is no UTF-8: mend it, or take the file out"
            ) from None

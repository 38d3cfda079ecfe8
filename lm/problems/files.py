"""Files of problems: JSON lines, gzipped or not; what cannot be read is named by file and line."""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm.config import ConfigError

BOM = codecs.BOM_UTF8
OTHERS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32's little-endian mark begins with the first


def rows_of(path: Path, needs: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`path:line`, object) of every line that is not blank; a byte order mark is passed over.

    Raises ConfigError, in which `needs` says what a line is to be, for one that is no JSON object in UTF-8, and for a broken
    gzip.
    """
    for where, line in lines_of(path):
        yield where, object_of(line, where, needs)


def lines_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """(`path:line`, line) of every line that is not blank, the first without its byte order mark. Raises ConfigError for a
    broken gzip, for an encoding that is not UTF-8's, and for a file without line feeds."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        number = 0
        while True:
            number += 1
            try:
                line = lines.readline()
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise ConfigError(f"{path}:{number}: the gzip ends or is broken here: {error}") from None
            if not line:
                return
            if number == 1:
                line = _first(line, path)
            if line.strip():
                yield f"{path}:{number}", line


def _first(line: bytes, path: Path) -> bytes:
    """The first line without its mark. Raises ConfigError for a file of another encoding, and for one without line feeds."""
    if line.startswith(OTHERS):
        raise ConfigError(f"{path}: is UTF-16 or UTF-32: write it as UTF-8")
    if re.search(rb"\}\s*\r\s*\{", line):
        raise ConfigError(f"{path}: its lines end in carriage returns alone: write them with line feeds")
    return line.removeprefix(BOM)


def object_of(line: bytes, where: str, needs: str) -> dict[str, Any]:
    """The JSON object of a line. Raises ConfigError, in which `needs` says what a line is to be, for one that is none in
    UTF-8."""
    try:
        text = line.decode()
        row = json.loads(text)
        if not isinstance(row, dict):
            raise TypeError(f"this is a JSON {type(row).__name__}")
        json.dumps(
            row, ensure_ascii=False
        ).encode()  # JSON can spell half a character (a lone surrogate), which no text has
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{where}: needs {needs}: {str(error) or type(error).__name__}") from None
    return row

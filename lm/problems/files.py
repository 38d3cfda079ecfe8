"""Files of problems: JSON lines, compressed or not; what cannot be read is named by file and line."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm.config import ConfigError
from lm.inputs import text

HALF = "half a character (a lone surrogate, or bytes that are no UTF-8) stands in a text"


def rows_of(path: Path, needs: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`path:line`, object) of every line that is not blank; byte order marks at its beginning are passed over.

    Raises ConfigError, in which `needs` says what a line is to be, for one that is no JSON object, and for a file that cannot
    be read on.
    """
    for where, line in lines_of(path):
        yield where, object_of(line, where, needs)


def lines_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """(`path:line`, line) of every line that is not blank. Raises ConfigError for a file that cannot be read on, and for one
    without line feeds."""
    for row, line in text.lines_of(path):
        if row == 1 and re.search(rb"\}\s*\r\s*\{", line):
            raise ConfigError(f"{path}: its lines end in carriage returns alone: write them with line feeds")
        yield f"{path}:{row}", line


def object_of(line: bytes, where: str, needs: str) -> dict[str, Any]:
    """The JSON object of a line. Raises ConfigError, in which `needs` says what a line is to be, for one that is none in
    UTF-8."""
    written = text.decode_utf8(line, where)
    try:
        row = json.loads(written)
        if not isinstance(row, dict):
            raise TypeError(f"this is a JSON {type(row).__name__}")
        if has_half_a_character(row):
            raise ValueError(HALF)
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{where}: needs {needs}: {str(error) or type(error).__name__}") from None
    return row


def has_half_a_character(row: Any) -> bool:
    """Whether a value as JSON has them holds a lone surrogate, which JSON can spell and no text has."""
    try:
        json.dumps(row, ensure_ascii=False, default=repr).encode()
    except UnicodeEncodeError:
        return True
    return False

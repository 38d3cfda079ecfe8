"""What commands are asked in the same way, and answers for programs: one JSON object or list on stdout, all else on stderr."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Have a command take --json."""
    parser.add_argument("--json", action="store_true", help="answer for programs: JSON on stdout, all else on stderr")


def one_or_more(text: str) -> int:
    """A whole number of a command line. Raises ArgumentTypeError for another word, and for a number below 1."""
    try:
        found = int(text)
    except ValueError:
        found = 0
    if found < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more (got {text!r})")
    return found


@contextmanager
def stdout_to_stderr(is_json: bool) -> Iterator[None]:
    """What is printed within goes to stderr where the answer is JSON."""
    if not is_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def print_json(value: Any) -> None:
    """Print a value as JSON; dataclasses are objects, and numbers that are not finite are null."""
    print(json.dumps(plain(value), ensure_ascii=False, indent=1, allow_nan=False), flush=True)


def plain(value: Any) -> Any:
    """The value of JSON that stands for a value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(part) for part in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.as_posix() if isinstance(value, Path) else value.item() if hasattr(value, "item") else str(value)

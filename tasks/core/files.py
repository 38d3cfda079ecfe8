"""Files written whole: a reader sees the old one or the new one, and a kill leaves no half."""

import json
import os
import shutil
from pathlib import Path
from typing import Any


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write sorted, indented JSON; a reader sees the old file or the new one."""
    write_text(path, json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole: a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text)
    os.replace(unfinished, path)


def put_in_place(made: Path, place: Path) -> None:
    """A file of a part under another name too: a part that lost it would be taken for whole by a killed stage's next run."""
    try:
        os.link(made, place)
    except OSError:  # on another device
        shutil.copyfile(made, place)

"""JSON lines: how they are told apart, and those that a stage says step by step, and again from a checkpoint on."""

import json
from pathlib import Path
from typing import Any

from lm.files import write_text


def lines_of(text: str) -> list[str]:
    """The lines of JSON lines, which end with a line feed alone: str.splitlines would end one at the U+0085, U+2028 or U+2029
    of a text in it, too."""
    return text.removesuffix("\n").split("\n") if text else []


class Lines:
    """A file of {"step": ..., ...} objects, appended by lines so that a kill loses none that was said."""

    def __init__(self, path: Path, resumes: bool) -> None:
        self.path = path
        self._file = path.open("a" if resumes else "w", buffering=1, encoding="utf-8")

    def add(self, step: int, values: dict[str, Any]) -> None:
        self._file.write(json.dumps({"step": step, **values}, ensure_ascii=False) + "\n")

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Forget what was said of `step` and later, and give what is left."""
        # bytes: the last, which is empty or was cut off by a kill, may end inside a character
        *whole, _ = self.path.read_bytes().split(b"\n")
        kept = [line.decode() + "\n" for line in whole if json.loads(line)["step"] < step]
        self._file.close()
        write_text(self.path, "".join(kept))  # a kill in between must not lose what the checkpoint counts on
        self._file = self.path.open("a", buffering=1, encoding="utf-8")
        return [json.loads(line) for line in kept]

    def close(self) -> None:
        self._file.close()

"""JSON lines that a stage says step by step, and says again from a checkpoint on."""

import json
from pathlib import Path
from typing import Any

from lm.files import write_text


class Lines:
    """A file of {"step": ..., ...} objects, appended by lines so that a kill loses none that was said."""

    def __init__(self, path: Path, resumes: bool) -> None:
        self.path = path
        self._file = path.open("a" if resumes else "w", buffering=1)

    def add(self, step: int, values: dict[str, Any]) -> None:
        self._file.write(json.dumps({"step": step, **values}, ensure_ascii=False) + "\n")

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Forget what was said of `step` and later, and give what is left."""
        whole = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["step"] < step]
        self._file.close()
        write_text(self.path, "".join(kept))  # a kill in between must not lose what the checkpoint counts on
        self._file = self.path.open("a", buffering=1)
        return [json.loads(line) for line in kept]

    def close(self) -> None:
        self._file.close()

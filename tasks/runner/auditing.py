"""What a run has to do for tasks/audit, which it calls by name and only when TOKENMILL_AUDIT=1 asks for an audit."""

import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tasks.runner.graph import Entry
from tasks.runner.settings import AUDIT


class Sections(dict[str, Any]):
    """Params that remember which of their sections were looked at."""

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__(params)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


def audited(entry: Entry, sections: Sections) -> AbstractContextManager[None]:
    """Context of a stage's work: an audit of it where one is asked for, else nothing."""
    if AUDIT.read() != "1":
        return nullcontext()
    return importlib.import_module("tasks.audit.audited").audited(entry, sections)

"""Running ingest in a folder, and reading what it made."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.core.log import Log
from tasks.core.tables import read_table
from tasks.ingest.sources.base import Source
from tasks.ingest.stage import IngestConfig, run
from tests.project import ROOT, digest

GOOD = b'{"id": "good", "text": "a good row"}\n'
PLENTY = 1 << 40


def row(text: object, **fields: object) -> bytes:
    """A JSON line."""
    return json.dumps({"text": text, **fields}).encode() + b"\n"


def ingest(folder: Path, *sources: Source, max_bytes: int = PLENTY, out: str = "data") -> tuple[list, list, dict]:
    """Documents, quarantine and metrics of these sources over folder/in."""
    made = folder / out / "ingest"
    made.mkdir(parents=True)
    config = IngestConfig(folder=str(folder / "in"), max_bytes=max_bytes, sources=list(sources), seed=0)
    metrics = run(config, folder / out, Log())
    return read_table(made / "documents").to_pylist(), read_table(made / "quarantine.parquet").to_pylist(), metrics


def ingest_for_all(folder: Path, *sources: Source) -> tuple[list, list, dict]:
    """The same for a fixture of a whole module, which comes before that of each test which asks for one worker."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TOKENMILL_SHARD_WORKERS", "1")
        return ingest(folder, *sources)


def documents_digest(folder: Path, *sources: Source, out: str = "data", max_bytes: int = PLENTY) -> str:
    """The digest of the documents that ingest makes of folder/in."""
    ingest(folder, *sources, out=out, max_bytes=max_bytes)
    return digest(folder / out / "ingest" / "documents")


def reasons(quarantine: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    return [(q["file"], q["row"], q["reason"]) for q in quarantine]


def in_a_process(program: str, *arguments: object, check: bool = True, **settings: Any) -> subprocess.CompletedProcess:
    """Python code with these arguments in a process of its own, whose memory and limits are no test's."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **settings)
    assert not check or done.returncode == 0, done.stderr
    return done

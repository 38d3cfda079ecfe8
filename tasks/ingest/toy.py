"""Ingest in the toy run: some documents of each source, from files at its front, middle and end."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.about.shrink import TEXT_BYTES, Params
from tasks.core.config import load
from tasks.core.held_out import HELD_OUT
from tasks.ingest.sources.base import Rejected
from tasks.ingest.stage import IngestConfig

# Documents of a source, of how many of its files, and no more of each text than this.
DOCUMENTS, FILES, CHARACTERS = 180, 3, 16_000
RAW = "raw"


def toy(params: Params, folder: Path) -> Params:
    """The sources read a folder of their own, a little of it."""
    return {"folder": str(folder / RAW), "max_bytes": TEXT_BYTES}


def inputs(params: Params, folder: Path) -> Params:
    """The sources of the toy run, once their files are made. Raises ConfigError or OSError where they cannot be read."""
    return {"sources": sample_sources(load("ingest", IngestConfig, params), folder / RAW)}


def sample_sources(config: IngestConfig, raw: Path) -> list[dict[str, Any]]:
    """The sources of the toy run. Those that make their documents up stay; of files the first rows, as the source itself reads
    them, stand in JSON lines under the same label."""
    raw.mkdir(parents=True)
    made = []
    for source in config.sources:
        if source.endless:
            made.append(source.model_dump())
            continue
        files = source.files(config.folder)
        chosen = [files[i] for i in sorted({0, len(files) // 2, len(files) - 1})]
        name = f"{len(made)}.jsonl"
        with (raw / name).open("w") as lines:
            for file in chosen:
                lines.writelines(
                    json.dumps(row) + "\n" for row in first_rows(source, file, config.seed, DOCUMENTS // FILES)
                )
        made.append(
            {"name": "jsonl", "path": name, "label": source.called, "weight": source.weight, "licence": source.licence}
        )
    return made


def first_rows(source: Any, file: Any, seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Up to so many documents, each with its id and what else is known of it."""
    for found in source.read(file, seed):
        if isinstance(found, Rejected):
            continue
        for row in found.to_pylist():
            if not isinstance(row["text"], str):
                continue
            own = {"id": str(row["id"])} if row["id"] is not None else {}
            meta = json.loads(row["meta"] or "{}")
            meta.pop(HELD_OUT, None)  # the first rows may all be of one side
            yield {**meta, **own, "text": row["text"][:CHARACTERS]}
            count -= 1
            if not count:
                return

"""Ingest: reads the sources, gives every document a stable id and its place, and quarantines what cannot be read.

A first pass reads each piece of the input into sorted runs; an index of all documents' keys then settles names, budgets and
the edges of the shards; a second pass gathers each shard from the runs. docs/ingest.md says what that guarantees.
"""

import hashlib
import platform
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field, model_validator

from lm.config import Config, Seed, choice
from lm.inputs.hashed import read_ignored, scan_dependency
from tasks.core.config import ConfigError
from tasks.core.log import Log
from tasks.core.parts import Part, link_or_copy, workers
from tasks.core.tables import Writer, read_batches, shard_path, shard_paths, write_table
from tasks.ingest import sources
from tasks.ingest.reading import Piece, pieces, read_piece
from tasks.ingest.runs import worker_memory
from tasks.ingest.shards import ORIGINS, Runs, buckets, make_shards, renumber
from tasks.ingest.sources.base import File
from tasks.ingest.sources.files import is_url

# Of the rows of a shard; one that is larger by itself has a shard of its own.
SHARD_BYTES = 64 << 20
# Reasons whose excerpt says what is to be done.
TELLING = ("missing_text", "text_is_not_a_string", "unreadable", "not_a_record", "not_json", "not_an_object")
AnySource: Any = choice(sources)  # named before a field of the same name hides the module


class IngestConfig(Config):
    """Each source may use its weight's share of max_bytes; what one leaves unused is not given to the others."""

    folder: str = Field("data/raw", description="the sources' paths are relative to it; all of it is a DVC dependency")
    max_bytes: int = Field(gt=0, description="UTF-8 bytes of text, over all sources")
    sources: list[AnySource] = Field(min_length=1)
    python: str | None = Field(None, description="the version that stdlib documents; `make pipeline` writes it")
    seed: Seed

    @model_validator(mode="after")
    def _labels_differ(self) -> "IngestConfig":
        labels = [source.called for source in self.sources]
        if len(set(labels)) < len(labels):
            shown = ", ".join(map(repr, labels))  # each on one line, whatever it holds
            raise ValueError(f"two sources have the same label ({shown}): give one a `label` of its own")
        if taken := {"low", "high"}.intersection(labels):
            raise ValueError(
                f"a source is called {taken.pop()!r}, as an end of the interval of bits_per_byte is: give another `label`"
            )
        return self

    def share(self, source: Any) -> int:
        """Bytes of text that a source may give."""
        share = int(self.max_bytes * source.weight / sum(each.weight for each in self.sources))
        return share if source.limit is None else min(share, source.limit)


def run(config: IngestConfig, data: Path, log: Log) -> dict[str, float]:
    """Sources -> data/ingest."""
    check_python(config)
    out = data / "ingest"
    say_left_out(config.folder)
    listed = [(source, source.files(config.folder)) for source in config.sources]
    items = [piece for source, files in listed for piece in pieces(source, files, config.share(source), config.seed)]
    # a remote store may list other files by the time a killed stage goes on
    parts = log.map(read_piece, items, f"read-{digest_of(items)}", "piece")
    totals = write_documents(config, items, parts, out, log)
    write_remote(out / "remote.parquet", listed)
    reasons: Counter[str] = Counter()
    for part in parts:
        reasons.update(part.facts["reasons"])
    return {
        "documents": sum(total.documents for total in totals.values()),
        "bytes": sum(total.bytes for total in totals.values()),
        "duplicate_ids": sum(total.renamed for total in totals.values()),
        **{f"documents_{label}": total.documents for label, total in totals.items()},
        **{f"bytes_{label}": total.bytes for label, total in totals.items()},
        "quarantined": sum(reasons.values()),
        **{f"quarantined_{reason}": count for reason, count in sorted(reasons.items())},
    }


def check_python(config: IngestConfig) -> None:
    """Raises ConfigError where the standard library is a source and another Python than the pinned one runs."""
    running = platform.python_version()
    if any(isinstance(source, sources.Stdlib) for source in config.sources) and config.python not in (None, running):
        raise ConfigError(
            f"params.yaml: ingest.python: {config.python}, but this is Python {running}, whose library differs: "
            f"run `make pipeline`, which writes the running version, or use Python {config.python}"
        )


def say_left_out(folder: str) -> None:
    """Name what no source reads because DVC does not hash it: a change there would not make this stage run again."""
    found = scan_dependency(Path(folder), read_ignored())
    names = [path.relative_to(folder).as_posix() for path in sorted([*found.ignored, *found.links])]
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        print(f"ingest: {folder}: {len(names)} not read, since DVC does not look into them: {shown}", flush=True)


def digest_of(items: Sequence[object]) -> str:
    return hashlib.sha256("\n".join(map(repr, items)).encode()).hexdigest()[:16]


def write_documents(config: IngestConfig, items: list[Piece], parts: list[Part], out: Path, log: Log) -> dict[str, Any]:
    """documents/, origins, sources and quarantine of the pieces that were read; the totals of each source, by label."""
    from tasks.ingest.index import Index, disk_errors, write_quarantine  # DuckDB takes a while to import

    folder = log.parts / "index"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    labels = [piece.source.called for piece in items]
    with disk_errors():
        index = Index(folder, [(part.folder, label) for part, label in zip(parts, labels, strict=True)])
        renamed = index.rename()
        cuts = index.budget({source.called: config.share(source) for source in config.sources if not source.endless})
        totals = index.totals()
        check_usable(config, items, parts, totals)
        places = index.shards(SHARD_BYTES)
        index.close()
        write_quarantine(out / "quarantine.parquet", [part.folder for part in parts], folder)
    runs = [part.folder / "runs" for part in parts]
    renumbered = log.map(renumber, [(runs[piece], path) for piece, path in renamed.items()], "renumber", "piece")
    for piece, part in zip(renamed, renumbered, strict=True):
        runs[piece] = part.folder / "runs"
    sorted_runs = [Runs(path, label, cuts.get(label)) for path, label in zip(runs, labels, strict=True)]
    at_once = min(worker_memory(), sum(size for *_, size in places) // workers())
    together = list(buckets(places, sorted_runs, at_once))
    # another amount of memory may gather other shards together
    made = log.map(make_shards, together, f"shards-{digest_of(together)}", "bucket")
    place_shards(made, out)
    write_sources(out / "sources.parquet", config, totals)
    return totals


def check_usable(config: IngestConfig, items: list[Piece], parts: list[Part], totals: dict[str, Any]) -> None:
    """Raises ConfigError naming a source that gives nothing, and why."""
    for source in config.sources:
        if source.called in totals:
            continue
        reasons: Counter[str] = Counter()
        examples: dict[str, str] = {}
        is_there = source.endless
        for piece, part in zip(items, parts, strict=True):
            if piece.source is source:
                reasons.update(part.facts["reasons"])
                examples = part.facts["examples"] | examples
                is_there = is_there or part.facts["documents"] > 0
        most = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(3))
        empty = "its first document exceeds its share" if is_there else "there is no row in it"
        why = f"{sum(reasons.values())} rows rejected: {most}" if most else empty
        path = str(getattr(source, "path", ""))
        where = path if is_url(path) else str(Path(config.folder, path))
        raise ConfigError(
            f"ingest.sources: {source.called}: {where}: not one usable document "
            f"({why}){what_to_do(source, reasons, examples)}"
        )


def what_to_do(source: Any, reasons: Counter[str], examples: dict[str, str]) -> str:
    """What the most frequent reason that says something asks for, "" where none does. examples: a row of each reason."""
    for reason, _ in reasons.most_common():
        if reason == "invalid_utf8" and hasattr(source, "encoding"):
            return f"; {examples[reason]}: no UTF-8: state what it is, as in encoding: latin-1"
        if reason in TELLING:
            return f"; {examples[reason]}"
    return ""


def place_shards(made: list[Part], out: Path) -> None:
    """Put the shards of all buckets under consecutive numbers, and their origins into one file."""
    number = 0
    with Writer(out / "origins.parquet", ORIGINS) as origins:
        for part in made:
            for file in shard_paths(part.folder / "documents"):
                link_or_copy(file, shard_path(out / "documents", number))
                number += 1
            for batch in read_batches(part.folder / "origins"):
                origins.write(batch)


def write_sources(path: Path, config: IngestConfig, totals: dict[str, Any]) -> None:
    """What each source gave, and under which licence."""
    given = sorted(config.sources, key=lambda source: source.called)
    columns = {
        "source": pa.array([source.called for source in given], pa.string()),
        "licence": pa.array([source.licence for source in given], pa.string()),
        "documents": pa.array([totals[source.called].documents for source in given], pa.int64()),
        "bytes": pa.array([totals[source.called].bytes for source in given], pa.int64()),
    }
    write_table(path, pa.table(columns))


def write_remote(path: Path, listed: list[tuple[Any, list[File]]]) -> None:
    """The files of remote stores as they were listed: DVC does not watch them."""
    found = sorted((s.called, f.name, f.bytes, f.tag) for s, files in listed for f in files if f.remote)
    kinds = {"source": pa.string(), "file": pa.string(), "bytes": pa.int64(), "tag": pa.string()}
    values = zip(*found, strict=True) if found else ([] for _ in kinds)
    columns = {name: pa.array(list(c), kind) for (name, kind), c in zip(kinds.items(), values, strict=True)}
    write_table(path, pa.table(columns))

"""Hostile input, one kind a test: good rows survive, bad ones are quarantined with file, row and reason."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tasks.core.config import ConfigError
from tasks.ingest.index import CELL_BITS
from tasks.ingest.reading import id_hash
from tasks.ingest.sources import Csv, Jsonl, Parquet, TextFolder, Warc
from tasks.ingest.sources.base import Source
from tasks.ingest.stage import IngestConfig
from tests.ingest.made import GOOD, ingest, ingest_for_all, reasons, row
from tests.project import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


BAD = [
    (b'{"text": "caf\xe9"}\n', "invalid_utf8"),
    (b'{"text": "half a li\n', "not_json"),
    (b"[1, 2]\n", "not_an_object"),
    (b'{"body": "no text"}\n', "missing_text"),
    (row(None), "null_text"),
    (row(17), "text_is_not_a_string"),
    (row(""), "empty_text"),
    (row(" \n\t "), "empty_text"),
    (b'{"text": "a raw \x00 byte"}\n', "nul_bytes"),
    (row("an escaped \x00 character"), "nul_bytes"),
    (b'{"text": "\\ud800"}\n', "invalid_unicode"),
    (b'{"id": "\\ud800", "text": "an id that no file can hold"}\n', "invalid_unicode"),
    (row("x", id="i" * 5000), "invalid_id"),
    (b"[" * 100_000 + b"\n", "not_json"),
    (b'{"text": "x", "deep": ' + b"[" * 600 + b"]" * 600 + b"}\n", "nested_too_deep"),
    (b'{"text": "x", "n": NaN, "deep": ' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}\n", "nested_too_deep"),
]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], list[dict], dict]:
    """What is read of files with a bad line each between two good ones, all at once: a run of the stage is what takes time."""
    folder = tmp_path_factory.mktemp("lines")
    (folder / "in").mkdir()
    for number, (bad, _) in enumerate(BAD):
        around = [row("a text", id=f"{number} {place}") for place in ("before", "after")]
        (folder / "in" / f"{number}.jsonl").write_bytes(around[0] + bad + around[1])
    return ingest_for_all(folder, Jsonl(path="*.jsonl"))


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_a_bad_line_is_quarantined_and_its_neighbours_survive(
    read: tuple[list[dict], list[dict], dict], bad: bytes, reason: str
) -> None:
    documents, quarantine, metrics = read
    number = BAD.index((bad, reason))
    assert {f"{number} before", f"{number} after"} <= {d["id"] for d in documents} and len(documents) == 2 * len(BAD)
    assert [told for told in reasons(quarantine) if told[0] == f"{number}.jsonl"] == [(f"{number}.jsonl", 2, reason)]
    assert metrics["quarantined"] == len(quarantine) == len(BAD)
    assert metrics[f"quarantined_{reason}"] == sum(other == reason for _, other in BAD)


def test_a_byte_order_mark_is_no_part_of_the_text(folder: Path) -> None:
    (folder / "in" / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD)
    (folder / "in" / "b.txt").write_bytes(b"\xef\xbb\xbfplain")
    documents, quarantine, _ = ingest(folder, Jsonl(path="*.jsonl"), TextFolder())
    assert {d["text"] for d in documents} == {"a good row", "plain"} and not quarantine


def test_duplicate_ids_are_told_apart_and_counted(folder: Path) -> None:
    (folder / "in" / "a.jsonl").write_bytes(GOOD * 3 + b'{"id": "good#2", "text": "a name that is taken"}\n')
    documents, _, metrics = ingest(folder, Jsonl(path="*.jsonl"))
    names = {d["id"]: d["text"] for d in documents}
    assert set(names) == {"good", "good#2", "good#3", "good#4"} and metrics["duplicate_ids"] == 2
    assert names["good#2"] == "a name that is taken"


def test_a_truncated_gzip_gives_the_rows_before_the_tear(folder: Path) -> None:
    rows = b"".join(json.dumps({"id": str(i), "text": os.urandom(30).hex()}).encode() + b"\n" for i in range(5000))
    whole = gzip.compress(rows)
    (folder / "in" / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    documents, quarantine, _ = ingest(folder, Jsonl(path="*.gz"))
    assert 1000 < len(documents) < 5000 and {d["id"] for d in documents} == {str(i) for i in range(len(documents))}
    assert [(q["file"], q["reason"]) for q in quarantine] == [("a.jsonl.gz", "unreadable")]
    assert quarantine[0]["row"] == len(documents) + 1


def test_what_is_no_gzip_or_zstd_is_quarantined_whole(folder: Path) -> None:
    (folder / "in" / "a.jsonl.gz").write_bytes(GOOD)
    (folder / "in" / "b.jsonl.zst").write_bytes(GOOD)
    (folder / "in" / "c.jsonl").write_bytes(GOOD)
    documents, quarantine, _ = ingest(folder, Jsonl(path="*"))
    assert len(documents) == 1
    assert reasons(quarantine) == [
        ("a.jsonl.gz", 0, "unreadable"),
        ("b.jsonl.zst", 0, "unreadable"),
    ]


def test_every_format_gives_the_same_rows(folder: Path) -> None:
    texts = ["first", "second line\nand more", "third \N{SNOWMAN}"]
    lines = b"".join(json.dumps({"id": str(i), "text": t}).encode() + b"\n" for i, t in enumerate(texts))
    (folder / "in" / "a.jsonl").write_bytes(lines)
    (folder / "in" / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "in" / "c.jsonl.zst").write_bytes(zstandard.compress(lines))
    pq.write_table(pa.table({"id": list("012"), "text": texts}), folder / "in" / "d.parquet")
    for number, text in enumerate(texts):
        (folder / "in" / f"e{number}.txt").write_text(text)
    kinds = [Jsonl(path=f"*.{e}", label=e) for e in ("jsonl", "jsonl.gz", "jsonl.zst")]
    documents, quarantine, metrics = ingest(folder, *kinds, Parquet(path="*.parquet"), TextFolder())
    by_source: dict[str, list[str]] = {}
    for document in documents:
        by_source.setdefault(document["source"], []).append(document["text"])
    assert len(by_source) == 5 and all(sorted(found) == texts for found in by_source.values()) and not quarantine
    assert metrics["documents"] == 15 and len({d["id"] for d in documents}) == 15


def test_parquet_with_bad_cells_and_without_the_column(folder: Path) -> None:
    pq.write_table(pa.table({"text": ["good", None, "", "nul \0"]}), folder / "in" / "a.parquet")
    pq.write_table(pa.table({"body": ["x"]}), folder / "in" / "b.parquet")
    (folder / "in" / "c.parquet").write_bytes(b"PAR1 but not really")
    documents, quarantine, _ = ingest(folder, Parquet(path="*.parquet"))
    assert [d["text"] for d in documents] == ["good"]
    assert reasons(quarantine) == [
        ("a.parquet", 2, "null_text"),
        ("a.parquet", 3, "empty_text"),
        ("a.parquet", 4, "nul_bytes"),
        ("b.parquet", 0, "missing_text"),
        ("c.parquet", 0, "unreadable"),
    ]


def test_an_empty_file_is_quarantined(folder: Path) -> None:
    (folder / "in" / "a.jsonl").write_bytes(b"")
    (folder / "in" / "b.jsonl").write_bytes(GOOD)
    _, quarantine, _ = ingest(folder, Jsonl(path="*.jsonl"))
    assert reasons(quarantine) == [("a.jsonl", 0, "empty_file")]


def test_a_missing_path_and_a_missing_folder_are_errors(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"jsonl: no file matches 'nothing/\*' in"):
        ingest(folder, Jsonl(path="nothing/*"))
    with pytest.raises(ConfigError, match="no such folder"):
        ingest(folder / "elsewhere", Jsonl(path="*"))


@pytest.mark.parametrize(
    ("source", "pattern"),
    [
        (Jsonl(path="*.jsonl"), r"\*.jsonl"),
        (Parquet(path="*.parquet"), r"\*.parquet"),
        (Warc(path="*.warc"), r"\*.warc"),
        (Csv(path="*.csv"), r"\*.csv"),
        (TextFolder(), r"\*.txt"),
    ],
    ids=lambda given: getattr(given, "name", ""),
)
def test_a_folder_of_other_files_is_an_error_that_names_them(folder: Path, source: Source, pattern: str) -> None:
    """So does preflight, which looks at what files there are before it reads one."""
    for name in ("a.json.gz", "b.json.gz", "c.text"):
        (folder / "in" / name).write_bytes(b"")
    said = rf"{source.name}: no file matches '{pattern}' in .*, which has 2 of .json.gz, 1 of .text: name the source"
    with pytest.raises(ConfigError, match=said):
        source.files(str(folder / "in"))


def test_a_source_with_nothing_usable_says_so_and_why(folder: Path) -> None:
    (folder / "in" / "a.jsonl").write_bytes(row(None) * 3 + row(""))
    with pytest.raises(
        ConfigError, match=r"jsonl: .*in/\*: not one usable document \(4 rows rejected: null_text 3, empty_text 1\)"
    ):
        ingest(folder, Jsonl(path="*"))


@pytest.mark.parametrize(
    ("source", "content"),
    [(Jsonl, b"\n\n"), (Jsonl, b"\xef\xbb\xbf"), (Jsonl, b"[]"), (Csv, b"id,text\n")],
    ids=["blank lines", "a mark alone", "an empty array", "a header alone"],
)
def test_a_source_without_a_row_says_so(source: Any, content: bytes, folder: Path) -> None:
    (folder / "in" / "a").write_bytes(content)
    with pytest.raises(ConfigError, match=r"in/\*: not one usable document \(there is no row in it\)"):
        ingest(folder, source(path="*"))


def test_a_documents_length_is_in_bytes(folder: Path) -> None:
    pq.write_table(pa.table({"text": ["eightsix", "\u00e9" * 4, "\u00e9" * 5]}), folder / "in" / "a.parquet")
    documents, quarantine, _ = ingest(folder, Parquet(path="*", max_document_bytes=8))
    assert sorted(d["text"] for d in documents) == ["eightsix", "\u00e9" * 4]
    assert reasons(quarantine) == [("a.parquet", 3, "document_too_long")]


def test_a_folder_that_may_not_be_read(folder: Path) -> None:
    """DVC passes it over in silence, so a change in it would go unseen. Run as an ordinary user, since root may read all."""
    closed = folder / "in" / "closed"
    closed.mkdir()
    (closed / "hidden.txt").write_text("hidden")
    (folder / "in" / "open.txt").write_text("open")
    closed.chmod(0)
    drop = "os.setuid(65534);" if os.geteuid() == 0 else ""
    program = (
        f"import os, sys; from pathlib import Path; from tasks.ingest.sources import TextFolder; {drop}\n"
        "for source in (TextFolder(), TextFolder(path='closed')):\n"
        "    try: source.files('in')\n"
        "    except Exception as error: print(type(error).__name__, error)"
    )
    for parent in [folder, *folder.parents]:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    finally:
        closed.chmod(0o700)
    first, second = done.stdout.splitlines() if done.returncode == 0 else (done.stderr, "")
    assert first == "ConfigError in/closed: Permission denied: DVC cannot see what is in it: mend that, or move it away"
    assert second.startswith("ConfigError") and "no folder that can be read" in second


def test_a_budget_ends_a_source_and_weights_divide_it(folder: Path) -> None:
    for name in "ab":
        (folder / "in" / f"{name}.jsonl").write_bytes(b"".join(row("0123456789", id=f"{name}{i}") for i in range(100)))
    sources = [Jsonl(path="a.jsonl", label="a", weight=3.0), Jsonl(path="b.jsonl", label="b", weight=1.0)]
    _, _, metrics = ingest(folder, *sources, max_bytes=400)
    assert (metrics["bytes_a"], metrics["bytes_b"]) == (300, 100)


def test_a_budget_that_a_document_just_fills_takes_it(folder: Path) -> None:
    """Two whose hashes lie so near that sums of cells do not tell them apart."""
    by_cell: dict[int, str] = {}
    names = map(str, range(1 << 16))
    pair = next((by_cell[cell], n) for n in names if by_cell.setdefault(cell := id_hash(n) >> (64 - CELL_BITS), n) != n)
    (folder / "in" / "a.jsonl").write_bytes(b"".join(row("0123456789", id=name) for name in pair))
    documents, *_ = ingest(folder, Jsonl(path="*"), max_bytes=10)
    assert [d["id"] for d in documents] == [min(pair, key=id_hash)]


def test_sources_of_one_label_are_refused() -> None:
    with pytest.raises(ValueError, match="same label"):
        IngestConfig(folder=".", max_bytes=1, sources=[Jsonl(path="a"), Jsonl(path="b")], seed=0)


def test_a_label_over_two_lines_is_said_on_one() -> None:
    sources = [Jsonl(path="a", label="a\n# b"), Jsonl(path="b", label="a\n# b")]
    with pytest.raises(ValueError, match=r"same label \('a\\n# b', 'a\\n# b'\): give"):
        IngestConfig(folder=".", max_bytes=1, sources=sources, seed=0)


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("**/*.txt", {"a.txt", "deep/b.txt", "deep/er/c.txt"}),
        ("deep/**/*.txt", {"deep/b.txt", "deep/er/c.txt"}),
        ("deep/b*", {"deep/b.txt"}),
        ("b*", {"deep/b.txt"}),
    ],
)
def test_a_pattern_with_a_slash_is_of_paths(folder: Path, pattern: str, named: set[str]) -> None:
    for name in ("a.txt", "deep/b.txt", "deep/er/c.txt"):
        path = folder / "in/top" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        fsspec.filesystem("memory").pipe(f"{folder}/top/{name}", name.encode())
    for top in ("top", f"memory:/{folder}/top/"):
        found = TextFolder(path=top, pattern=pattern).files(str(folder / "in"))
        assert {file.name.partition("/top/" if "://" in top else "top/")[2] for file in found} == named


@pytest.mark.parametrize("label", ["low", "high"])
def test_a_label_that_is_a_figure_of_its_own_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match=f"called '{label}', as an end of the interval"):
        IngestConfig(folder=".", max_bytes=1, sources=[Jsonl(path="a", label=label)], seed=0)

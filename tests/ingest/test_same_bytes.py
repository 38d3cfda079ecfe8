"""However the same rows are laid out in files, and whoever reads them: the same documents, byte for byte."""

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.tables import count_rows, read_table, shard_paths
from tasks.ingest import reading, stage
from tasks.ingest.index import halve
from tasks.ingest.sources import Jsonl, Parquet, TextFolder
from tests.forks.work import share_among_two
from tests.ingest.made import documents_digest, ingest, row

Row = dict[str, str]
SHARD = 20_000


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards and pieces so small that there are several."""
    monkeypatch.setattr(stage, "SHARD_BYTES", SHARD)
    monkeypatch.setattr(reading, "BYTES_A_PIECE", 30_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


def corpus() -> list[Row]:
    """300 rows: some share an id, some have none, some are the same twice, one is larger than a shard."""
    rnd = random.Random(0)
    rows = []
    for number in range(300):
        text = " ".join(rnd.choices(["ash", "birch", "cedar", "elm", "fir \N{SNOWMAN}"], k=rnd.randrange(1, 80)))
        rows.append({"text": text, "url": f"http://x/{number % 50}"} | ({"id": f"row-{number}"} if number % 3 else {}))
    rows += [{"id": "row-1", "text": f"another {n}", "url": "http://y"} for n in range(4)]
    rows += [{"id": "row-1#3", "text": "a name that is taken"}, {"text": "large " * 6000, "id": "large"}, *rows[:40]]
    return rows


def lines(rows: list[Row]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in rows)


def write(folder: Path, files: dict[str, list[Row]]) -> None:
    for name, rows in files.items():
        content = lines(rows)
        if name.endswith(".gz"):
            content = gzip.compress(content)
        if name.endswith(".zst"):
            content = zstandard.compress(content)
        (folder / "in" / name).write_bytes(content)


def layouts() -> Iterator[tuple[str, dict[str, list[Row]]]]:
    rows, shuffled = corpus(), corpus()
    random.Random(1).shuffle(shuffled)
    yield "permuted", {"a.jsonl": shuffled}
    yield "renamed and turned round", {"z.jsonl": rows[::-1]}
    yield "split", {f"{number}.jsonl": rows[number::7] for number in range(7)}
    yield "recompressed", {"a.jsonl.gz": rows[:100], "b.jsonl.zst": rows[100:]}
    yield "one row a file", {f"{number}.jsonl": [each] for number, each in enumerate(shuffled)}


@pytest.mark.parametrize("max_bytes", [1 << 40, 50_000])
def test_the_layout_of_files_leaves_no_trace(folder: Path, max_bytes: int) -> None:
    (folder / "whole" / "in").mkdir(parents=True)
    write(folder / "whole", {"a.jsonl": corpus()})
    expected = documents_digest(folder / "whole", Jsonl(path="*"), max_bytes=max_bytes)
    for what, files in layouts():
        (folder / what / "in").mkdir(parents=True)
        write(folder / what, files)
        assert documents_digest(folder / what, Jsonl(path="*"), max_bytes=max_bytes) == expected, what


def test_two_workers_and_little_memory_leave_no_trace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, {f"{number}.jsonl": corpus()[number::4] for number in range(4)})
    one = documents_digest(folder, Jsonl(path="*"), out="one")
    monkeypatch.setattr("tasks.ingest.runs.MOST_A_RUN", 1)
    monkeypatch.setattr("tasks.ingest.runs.BYTES_A_BATCH", 500)
    assert documents_digest(folder, Jsonl(path="*"), out="batches") == one
    share_among_two(monkeypatch)
    monkeypatch.setenv("TOKENMILL_MEMORY", "16")
    assert documents_digest(folder, Jsonl(path="*"), out="two") == one


def test_row_groups_leave_no_trace(folder: Path) -> None:
    names = ("id", "text", "url")
    table = pa.table({name: pa.array([each.get(name) for each in corpus()]) for name in names})
    write(folder, {"a.jsonl": [{name: each.get(name) for name in names} for each in corpus()]})
    expected, *_ = ingest(folder, Jsonl(path="*.jsonl", label="x"), out="lines")
    for group, compression in ((1, "none"), (7, "zstd"), (10_000, "none"), (10_000, "zstd")):
        pq.write_table(table, folder / "in" / "a.parquet", row_group_size=group, compression=compression)
        documents, *_ = ingest(folder, Parquet(path="*.parquet", label="x"), out=f"{group} {compression}")
        assert documents == expected, (group, compression)


def test_text_files_may_bear_any_name(folder: Path) -> None:
    for number in range(30):
        (folder / "in" / f"{number}.txt").write_text(f"text {number}")
    before = documents_digest(folder, TextFolder(), out="before")
    for number in range(30):
        (folder / "in" / f"{number}.txt").rename(folder / "in" / f"{99 - number}.txt")
    assert documents_digest(folder, TextFolder(), out="after") == before


def test_documents_stand_in_canonical_order_and_shards_are_cut_by_it(folder: Path) -> None:
    write(folder, {"a.jsonl": corpus()})
    documents, _, metrics = ingest(folder, Jsonl(path="*"))
    keys = [(xxhash.xxh3_64_intdigest(d["id"].encode()), d["id"]) for d in documents]
    assert keys == sorted(keys) and len(set(keys)) == len(keys) == len(corpus()) == metrics["documents"]
    table = folder / "data" / "ingest" / "documents"
    sizes = [pq.read_table(file, partitioning=None).column("text").to_pylist() for file in shard_paths(table)]
    big = [texts for texts in sizes if sum(map(len, texts)) > SHARD]
    assert len(sizes) > 4 and [len(texts) for texts in big] == [1]
    first = 0
    for texts in sizes:
        mine = [key for key, _ in keys[first : first + len(texts)]]
        prefix = 64 - (mine[0] ^ mine[-1]).bit_length()
        others = keys[:first] + keys[first + len(texts) :]
        assert not any(key >> (64 - prefix) == mine[0] >> (64 - prefix) for key, _ in others), "not a range of top bits"
        first += len(texts)


def test_origins_say_where_each_document_was_read(folder: Path) -> None:
    write(
        folder,
        {"a.jsonl": [{"id": "1", "text": "first"}], "b.jsonl": [{"id": "1", "text": "second"}, {"text": "third"}]},
    )
    documents, *_ = ingest(folder, Jsonl(path="*"))
    texts = {d["id"]: d["text"] for d in documents}
    origins = read_table(folder / "data" / "ingest" / "origins.parquet").to_pylist()
    places = {"first": ("a.jsonl", 1), "second": ("b.jsonl", 1), "third": ("b.jsonl", 2)}
    assert {texts[o["id"]]: (o["file"], o["row"]) for o in origins} == places
    assert [o["id"] for o in origins] == [d["id"] for d in documents]


def test_sources_are_counted_and_bear_their_licences(folder: Path) -> None:
    write(folder, {"a.jsonl": corpus()[:20], "b.jsonl": corpus()[20:25]})
    kinds = [Jsonl(path="b.jsonl", label="z"), Jsonl(path="a.jsonl", label="b", licence="CC0-1.0")]
    _, _, metrics = ingest(folder, *kinds)
    assert read_table(folder / "data" / "ingest" / "sources.parquet").to_pylist() == [
        {"source": "b", "licence": "CC0-1.0", "documents": 20, "bytes": metrics["bytes_b"]},
        {"source": "z", "licence": None, "documents": 5, "bytes": metrics["bytes_z"]},
    ]


def test_a_limit_takes_the_first_in_canonical_order(folder: Path) -> None:
    write(folder, {"a.jsonl": corpus()})
    documents, *_ = ingest(folder, Jsonl(path="*"), out="all")
    some, _, metrics = ingest(folder, Jsonl(path="*", limit=9000), out="some")
    assert some == documents[: len(some)] and 0 < metrics["bytes"] <= 9000
    assert metrics["bytes"] + len(documents[len(some)]["text"].encode()) > 9000


names = st.sampled_from(["a", "b", "a#2", "a#3", "a#5", "b#2", "a#2#2", "a#02", "c"])


@settings(deadline=None, max_examples=12, derandomize=True)
@given(st.lists(st.tuples(names, st.integers(0, 3)), min_size=1, max_size=14))
def test_every_id_is_used_once_and_no_row_loses_its_own_to_a_number(tmp_path_factory, rows: list) -> None:
    folder = tmp_path_factory.mktemp("names")
    (folder / "in").mkdir()
    write(folder, {"a.jsonl": [{"id": name, "text": f"text {number}"} for name, number in rows]})
    documents, _, metrics = ingest(folder, Jsonl(path="*"))
    ids = {d["id"] for d in documents}
    assert len(ids) == len(rows) and {name for name, _ in rows} <= ids
    assert metrics["duplicate_ids"] == len(rows) - len({name for name, _ in rows})
    assert Counter(d["text"] for d in documents) == Counter(f"text {number}" for _, number in rows)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 9), min_size=16, max_size=16), st.integers(1, 40))
def test_halving_covers_all_and_no_range_is_too_large(sizes: list[int], most: int) -> None:
    found = halve(np.array(sizes), most)
    inside = [place for begin, end, _ in found for place in range(begin, end)]
    assert inside == sorted(set(inside)) and sum(sizes) == sum(size for *_, size in found)
    for begin, end, size in found:
        assert size == sum(sizes[begin:end]) and (size <= most or end - begin == 1)
        assert (end - begin).bit_count() == 1 and begin % (end - begin) == 0


def test_a_corpus_of_one_document_repeated_is_numbered(folder: Path) -> None:
    (folder / "in" / "a.jsonl").write_bytes(row("always the same") * 3000)
    _, _, metrics = ingest(folder, Jsonl(path="*"))
    assert metrics["duplicate_ids"] == 2999 and count_rows(folder / "data" / "ingest" / "documents") == 3000

"""A against B: what B holds goes, however B is cut and stored."""

import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import ConfigError
from tasks.core.log import Log
from tasks.dedup.documents import DedupResult, Documents
from tasks.dedup.engine.normal_form import normalised
from tasks.dedup.methods.against import Against, fractions
from tests.dedup.tables import documents_of, same
from tests.forks.work import share_among_two

TEXTS = st.lists(st.lists(st.sampled_from(["a", "B", "ß", "\n", "."]), max_size=8).map(" ".join), max_size=8)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_SHARD_WORKERS", "1")


def lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def kept(texts: list[str], method: Against, cuts: tuple[int, ...] = (), group: int = 4096) -> DedupResult:
    with tempfile.TemporaryDirectory() as folder:
        return method(documents_of(Path(folder) / "table", texts, cuts, group), Path(folder), Log())


def shingles(text: str, size: int) -> set[tuple[str, ...]]:
    """Of the words of these tests, which stand between white space."""
    words = [word for word in text.lower().split() if word != "."]
    size = min(size, len(words))
    return {tuple(words[at : at + size]) for at in range(len(words) - size + 1)} if words else set()


@settings(deadline=None, max_examples=40, derandomize=True)
@given(TEXTS, TEXTS.filter(len), st.integers(1, 4), st.sampled_from([0.3, 0.5, 1.0]))
def test_both_matches_against_brute_force(texts: list[str], held: list[str], size: int, overlap: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        b = str(lines(Path(folder) / "b.jsonl", held))
        exact = kept(texts, Against(folder=b))
        near = kept(texts, Against(folder=b, match="near", shingle_words=size, overlap=overlap))
    forms = {normalised(text) for text in held}
    assert exact.keep_N.tolist() == [normalised(text) not in forms for text in texts]
    theirs = set().union(*(shingles(text, size) for text in held))
    ours = [shingles(text, size) for text in texts]
    assert near.keep_N.tolist() == [not s or len(s & theirs) / len(s) < overlap for s in ours]
    assert (exact.first_N == np.arange(len(texts))).all() and not len(near.cuts_K3)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(TEXTS, TEXTS.filter(len), st.lists(st.integers(0, 8), max_size=3), st.integers(1, 4), st.integers(0, 8))
def test_cuts_of_either_leave_no_trace(texts, held, cuts, group, half) -> None:
    for match in ("exact", "near"):
        with tempfile.TemporaryDirectory() as folder:
            b, whole = Path(folder) / "b", lines(Path(folder) / "whole.jsonl", held)
            b.mkdir()
            lines(b / "1.jsonl", held[half:])
            pq.write_table(
                pa.table({"text": pa.array(held[:half], pa.string())}), b / "2.parquet", row_group_size=group
            )
            (b / "README.md").write_text("no text")
            one = kept(texts, Against(folder=str(whole), match=match, shingle_words=2, overlap=0.5))
            other = kept(texts, Against(folder=str(b), match=match, shingle_words=2, overlap=0.5), tuple(cuts), group)
        assert same(one, other)


@pytest.mark.parametrize("match", ["exact", "near"])
def test_memory_workers_and_compression_leave_no_trace(match, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.Generator(np.random.Philox(key=1))
    texts = [" ".join(f"w{n}" for n in rng.integers(0, 50, size=40)) for _ in range(300)]
    held = [text.upper() for text in texts[::3]] + [" ".join(text.split()[:20]) for text in texts[1::3]]
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.mkdir()
    packed.mkdir()
    data = lines(plain / "b.jsonl", held).read_bytes()
    cut = data.index(b"\n", len(data) // 2) + 1
    (packed / "0.jsonl.gz").write_bytes(gzip.compress(data[:cut]))
    (packed / "1.jsonl.zst").write_bytes(zstandard.compress(data[cut:]))
    one = kept(texts, Against(folder=str(plain), match=match, overlap=0.9))
    assert one.keep_N.tolist() == [row % 3 != 0 for row in range(300)]
    if match == "near":  # 8 of the 28 shingles of the others are in the first 20 words
        half = kept(texts, Against(folder=str(plain), match=match, overlap=8 / 28))
        assert half.keep_N.tolist() == [row % 3 == 2 for row in range(300)]
    for module in ("key_set", "sorted_keys"):
        monkeypatch.setattr(f"tasks.dedup.engine.{module}.memory_budget", lambda: 20_000)
    assert same(one, kept(texts, Against(folder=str(packed), match=match, overlap=0.9), (100, 101), 13))
    share_among_two(monkeypatch)
    assert same(one, kept(texts, Against(folder=str(packed), match=match, overlap=0.9), (100,)))


def test_fractions_of_texts_without_shingles_are_zero() -> None:
    assert fractions(np.array([True, False, True]), np.array([0, 2, 0, 1])).tolist() == [0, 0.5, 0, 1]


def test_b_is_not_changed_and_rows_that_are_gone_stay_gone(tmp_path: Path) -> None:
    b = lines(tmp_path / "b.jsonl", ["held"])
    before = (b.read_bytes(), b.stat().st_mtime_ns)
    documents = documents_of(tmp_path / "table", ["x", "held", "y", "HELD"], (2,))
    found = Against(folder=str(b))(Documents(documents.table, np.array([False, True, True, True])), tmp_path, Log())
    assert found.keep_N.tolist() == [False, False, True, False] and (b.read_bytes(), b.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("b.jsonl", b'{"text": "a"}\n{oops\n', "b.jsonl:2: not JSON"),
        ("b.jsonl", b'{"body": "a"}\n', "b.jsonl:1: has no 'text'"),
        ("b.jsonl", b'{"text": 3}\n', "b.jsonl:1: 'text' is no text"),
        ("b.jsonl", b"\xff\n", "b.jsonl:1: is no UTF-8: its byte 1 is 0xff"),
        ("b.jsonl", b'{"text": ' + b"1" * 5000 + b"}\n", "b.jsonl:1: not JSON: Exceeds the limit (4300 digits)"),
        ("b.jsonl", b"", "holds no texts"),
        ("b.jsonl", b'{"text": null}\n', "holds no texts"),
        ("b.jsonl.gz", b"no gzip", "b.jsonl.gz: not gzip, as its name says"),
        ("b.jsonl.zst", b"no zstd", "b.jsonl.zst: not zstd, as its name says"),
        ("b.parquet", b"no parquet", "b.parquet: not a Parquet file"),
        ("b.csv", b"text\n", "has no file that ends with .parquet"),
        (None, b"", "does not exist"),
    ],
)
def test_a_b_that_cannot_be_used_is_said_so(name, data, said, tmp_path: Path) -> None:
    b = tmp_path / "b"
    if name:
        b.mkdir()
        (b / name).write_bytes(data)
    with pytest.raises(ConfigError, match="^dedup.against") as error:
        kept(["x"], Against(folder=str(b)))
    assert said in str(error.value)


def test_parquet_without_the_column_or_with_numbers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a"], "text": [1]}), tmp_path / "b.parquet")
    for field, said in (("none", "no column 'none'; it has body, text"), ("text", "column 'text' is int64")):
        with pytest.raises(ConfigError, match=said):
            kept(["x"], Against(folder=str(tmp_path), text_field=field))
    assert not kept(["A "], Against(folder=str(tmp_path), text_field="body")).keep_N[0]


def test_columns_of_text_as_polars_and_pandas_write_them_are_read(tmp_path: Path) -> None:
    for kind in (pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        pq.write_table(pa.table({"text": pa.array(["a", None, "b"]).cast(kind)}), tmp_path / "b.parquet")
        assert kept(["a", "b", "c"], Against(folder=str(tmp_path))).keep_N.tolist() == [False, False, True], kind


def test_a_gzip_that_is_damaged_anywhere_is_said_so(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": f"text {number**3}"}) + "\n" for number in range(300))
    whole = gzip.compress(rows.encode())
    for place in range(20, len(whole) - 20, 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x5A
        (tmp_path / "b.jsonl.gz").write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"^dedup.against.*b.jsonl.gz"):
            kept(["x"], Against(folder=str(tmp_path)))


def test_a_zstd_that_is_cut_anywhere_is_said_so(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": f"text {number**3}"}) + "\n" for number in range(1000))
    whole = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(rows.encode())
    for place in (1, 5, 40, len(whole) // 2, len(whole) - 10):
        (tmp_path / "b.jsonl.zst").write_bytes(whole[:-place])
        with pytest.raises(ConfigError, match=r"^dedup.against: .*b.jsonl.zst.*the zstd data ends before it is whole"):
            kept(["x"], Against(folder=str(tmp_path)))


def test_a_zstd_of_a_long_window_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    rows = b"\xef\xbb\xbf" + b'{"text": "a"}\n\xef\xbb\xbf{"text": "b"}\n'
    packer = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(3, window_log=30)
    )
    stream = packer.compressobj()  # as `zstd --long=30` writes what it reads from a pipe
    (tmp_path / "b.jsonl.zst").write_bytes(stream.compress(rows) + stream.flush())
    assert kept(["a", "b", "c"], Against(folder=str(tmp_path))).keep_N.tolist() == [False, False, True]


def test_of_two_columns_of_text_the_first_is_read(tmp_path: Path) -> None:
    both = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(both, tmp_path / "b.parquet")
    assert kept(["a", "b"], Against(folder=str(tmp_path))).keep_N.tolist() == [False, True]


def test_a_lone_surrogate_in_b_is_read(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"text": "a \\ud800"}\n{"text": "b"}\n')
    assert kept(["a ?", "b", "c"], Against(folder=str(tmp_path))).keep_N.tolist() == [False, False, True]

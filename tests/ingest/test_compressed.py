"""Files by what their bytes say: every compression whatever the name, torn or whole, and texts of other encodings."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zlib
from functools import partial
from itertools import product
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather

from lm.inputs.compressed import Damaged, Plain
from tasks.core.config import ConfigError
from tasks.ingest.sources import Csv, HuggingFace, Jsonl, Parquet, TextFolder
from tasks.ingest.sources.base import File
from tasks.ingest.sources.files import open_file
from tests.ingest.made import GOOD, ingest, reasons, row


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


def long_window(content: bytes) -> bytes:
    """As `zstd --long=31` does of a stream: its header asks for a window of 2 GiB."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=31)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(content) + packer.flush()


PACK = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "long zstd": long_window,
    "zstd with a sum": zstandard.ZstdCompressor(write_checksum=True).compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": partial(lzma.compress, format=lzma.FORMAT_ALONE),
}
NOISE = os.urandom(3000)
RANDOM = [row(os.urandom(40).hex(), id=str(n)) for n in range(12_000)]


@pytest.mark.parametrize("kind", PACK)
def test_what_is_compressed_is_read_whatever_its_name(folder: Path, kind: str) -> None:
    names = ["a.jsonl", "b.json.gz", "c.jsonl.zst", "d.jsonl.bz2", "e.jsonl.xz"]
    for name in names:
        halves = (PACK[kind](row(f"{half} of {name}", id=f"{name} {half}")) for half in ("one", "two"))
        (folder / "in" / name).write_bytes(
            b"".join(halves)
        )  # several frames follow each other, as cat and pigz leave them
    documents, quarantine, _ = ingest(folder, Jsonl(path="*"))
    assert len(documents) == 2 * len(names) and not quarantine
    assert {d["id"]: d["text"] for d in documents} == {
        f"{n} {half}": f"{half} of {n}" for n in names for half in ("one", "two")
    }


@pytest.mark.parametrize("kind", PACK)
def test_what_stands_before_a_tear_is_kept_and_the_loss_is_said(folder: Path, kind: str) -> None:
    whole = PACK[kind](b"".join(RANDOM))
    (folder / "in" / "a.jsonl").write_bytes(whole[: len(whole) * 3 // 4])
    documents, quarantine, _ = ingest(folder, Jsonl(path="*"))
    assert len(documents) > (0 if kind == "bzip2" else 3000)  # a block of bzip2 holds 900 kB
    assert {int(d["id"]) for d in documents} == set(range(len(documents)))
    assert reasons(quarantine) == [("a.jsonl", len(documents) + 1, "unreadable")]
    assert "ends before it is whole" in quarantine[0]["excerpt"]


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd with a sum"])
def test_without_its_last_bytes_all_rows_are_kept(folder: Path, kind: str) -> None:
    rows = b"".join(RANDOM[:100])
    (folder / "in" / "a.jsonl").write_bytes(PACK[kind](rows)[:-4])
    if kind == "zstd with a sum":  # its last block comes with the sum, or not at all
        with pytest.raises(ConfigError, match="unreadable 1"):
            ingest(folder, Jsonl(path="*"))
        return
    documents, quarantine, _ = ingest(folder, Jsonl(path="*"))
    assert len(documents) == 100 and [q["reason"] for q in quarantine] == ["unreadable"]


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    st.lists(st.binary(max_size=400) | st.just(bytes(70_000)) | st.just(NOISE), max_size=4),
    st.sampled_from(sorted(PACK)),
    st.integers(1, 999),
    st.sampled_from([0, 4, 508, 512, 5000, 70_000]),
)
def test_frames_and_any_size_of_reading_give_the_same_bytes(
    tmp_path_factory, parts: list[bytes], kind: str, size: int, zeros: int
) -> None:
    """Whatever number of zeros pads each frame."""
    path = tmp_path_factory.mktemp("frames") / "a"
    path.write_bytes(b"".join(PACK[kind](part) + bytes(zeros) for part in parts) or PACK[kind](b""))
    found = b""
    with open_file(File(str(path), "a"), 10**6) as opened:
        while data := opened.read1(size):
            assert len(data) <= size
            found += data
    assert found == b"".join(parts)


def test_after_a_damaged_member_of_gzip_the_next_is_found(tmp_path: Path) -> None:
    members = [gzip.compress(os.urandom(5000) + b"%d" % n) for n in range(4)]
    broken = bytearray(members[1])
    broken[2000:2020] = bytes(20)
    path = tmp_path / "a"
    path.write_bytes(members[0] + bytes(broken) + members[2] + members[3])
    found, errors = b"", 0
    with path.open("rb") as raw:
        plain = Plain(raw, "gzip", 200)
        while True:
            try:
                data = plain.read1()
            except Damaged:
                errors += 1
                continue
            if not data:
                break
            found += data
    assert errors >= 1
    assert found.startswith(gzip.decompress(members[0])) and found.endswith(gzip.decompress(members[2] + members[3]))


OTHERS = {
    b"PK\x03\x04": "zip",
    b"PAR1": "parquet",
    b"\x04\x22\x4d\x18": "lz4",
    b"SQLite format 3\0": "SQLite",
    b"%PDF-1.7": "PDF",
    b"ARROW1\0\0": "an Arrow file",
    b"\xff\xff\xff\xff\x78\0\0\0": "an Arrow stream",
    b"\x1f\x9d\x90": "compress",
    b"\x1f\x1e": "pack",
    b"LZIP\x01": "lzip",
    zlib.compress(bytes(range(256))): "a zlib stream (.z)",
}


@pytest.mark.parametrize("magic", OTHERS, ids=OTHERS.values())
def test_what_holds_no_text_is_named(folder: Path, magic: bytes) -> None:
    (folder / "in" / "a.jsonl").write_bytes(magic + b"\n more \n")
    (folder / "in" / "b.jsonl").write_bytes(GOOD)
    documents, quarantine, _ = ingest(folder, Jsonl(path="*"))
    assert len(documents) == 1 and reasons(quarantine) == [("a.jsonl", 0, "unreadable")]
    assert OTHERS[magic] in quarantine[0]["excerpt"]


def tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("a.jsonl")
        member.size = len(GOOD)
        archive.addfile(member, io.BytesIO(GOOD))
    return packed.getvalue()


INSIDE = {"a tar archive": tar(), "gzip: unpack it once": gzip.compress(GOOD), "a zip archive": b"PK\x03\x04\n more \n"}


def test_archives_and_what_is_compressed_twice_are_named(folder: Path) -> None:
    """By the excerpt of each file; but for a gzip file that nothing is packed around, which is read, as above."""
    wanted = {}
    for number, (inside, kind) in enumerate(product(INSIDE, [None, *PACK])):
        if kind is None and inside.startswith("gzip"):
            continue
        content = INSIDE[inside]
        (folder / "in" / f"{number:02}.jsonl").write_bytes(PACK[kind](content) if kind else content)
        wanted[f"{number:02}.jsonl"] = inside
    (folder / "in" / "good.jsonl").write_bytes(GOOD)
    documents, quarantine, _ = ingest(folder, Jsonl(path="*"))
    assert len(documents) == 1 and reasons(quarantine) == [(name, 0, "unreadable") for name in wanted]
    assert all(wanted[q["file"]] in q["excerpt"] for q in quarantine)


TEXT = "caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{SNOWMAN} \U0001f600\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_other_unicode_encodings_are_told_by_their_bytes(folder: Path, encoding: str) -> None:
    lines = f'{{"id": "1", "text": "{TEXT.strip()}"}}\n{{"id": "2", "text": "two"}}\n'
    (folder / "in" / "a.jsonl").write_bytes(lines.encode(encoding))
    (folder / "in" / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode(encoding)))
    (folder / "in" / "c.csv").write_bytes(f'id,text\n3,"{TEXT}"\n'.encode(encoding))
    (folder / "in" / "d.txt").write_bytes(f"plain {TEXT}".encode(encoding))
    documents, quarantine, _ = ingest(folder, Jsonl(path="[ab]*"), Csv(path="*.csv"), TextFolder())
    assert sorted(d["text"] for d in documents) == sorted([TEXT.strip(), "two"] * 2 + [TEXT, f"plain {TEXT}"])
    assert not quarantine


def test_half_a_character_of_utf_16_speaks_against_its_row_alone(folder: Path) -> None:
    lines = (
        '{"text": "one"}\n'.encode("utf-16") + b"\x00\xd8" + '{"text": "two"}\n{"text": "three"}\n'.encode("utf-16-le")
    )
    (folder / "in" / "a.jsonl").write_bytes(lines + b"{")
    documents, quarantine, _ = ingest(folder, Jsonl(path="*"))
    assert sorted(d["text"] for d in documents) == ["one", "three"]
    assert reasons(quarantine) == [("a.jsonl", 2, "invalid_utf8"), ("a.jsonl", 4, "invalid_utf8")]


def test_an_encoding_may_be_stated(folder: Path) -> None:
    text = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    (folder / "in" / "a.jsonl").write_bytes(f'{{"text": "{text} 1"}}\n'.encode("latin-1"))
    (folder / "in" / "b.csv").write_bytes(f"text\n{text} 2\n".encode("latin-1"))
    (folder / "in" / "c.txt").write_bytes(f"{text} 3".encode("latin-1"))
    (folder / "in" / "d.txt").write_bytes(f"{text} 4".encode("utf-8-sig"))  # a mark says more than the parameter
    said = {"encoding": "latin-1"}
    documents, quarantine, _ = ingest(
        folder, Jsonl(path="*.jsonl", **said), Csv(path="*.csv", **said), TextFolder(**said)
    )
    assert sorted(d["text"] for d in documents) == [f"{text} {n}" for n in range(1, 5)] and not quarantine
    with pytest.raises(ConfigError, match=r"invalid_utf8 1.*encoding: latin-1"):
        ingest(folder, Jsonl(path="*.jsonl"), out="without")
    for unknown in ("latin-99", "rot13", "base64"):
        with pytest.raises(ValueError, match="no encoding of text"):
            Jsonl(path="*", encoding=unknown)


def test_byte_order_marks_where_files_were_put_together(folder: Path) -> None:
    mark = b"\xef\xbb\xbf"
    (folder / "in" / "a.jsonl").write_bytes(mark + mark + row("one") + mark + row("two"))
    (folder / "in" / "b.csv").write_bytes((mark + b"text,id\nthree,3\n") + (mark + b"text,id\nfour,4\n"))
    (folder / "in" / "c.txt").write_bytes(mark + b"five\n" + mark + b"six\n")
    documents, quarantine, _ = ingest(folder, Jsonl(path="*.jsonl"), Csv(path="*.csv"), TextFolder())
    assert sorted(d["text"] for d in documents) == sorted(["one", "two", "three", "four", "five\nsix\n"])
    assert reasons(quarantine) == [("b.csv", 3, "repeated_header")]


def test_a_compressed_table_is_named(folder: Path) -> None:
    (folder / "in" / "a.parquet").write_bytes(gzip.compress(b"PAR1 and more"))
    with pytest.raises(ConfigError, match=r"unreadable 1.*is gzip: unpack it"):
        ingest(folder, Parquet(path="*"))


@pytest.mark.parametrize("new", [pa.ipc.new_file, pa.ipc.new_stream, None])
def test_arrow_in_the_place_of_parquet_is_named(folder: Path, new) -> None:
    table = pa.table({"text": ["one"]})
    if new:
        with new(str(folder / "in" / "a.parquet"), table.schema) as writer:
            writer.write(table)
    else:
        feather.write_feather(table, str(folder / "in" / "a.parquet"))
    with pytest.raises(
        ConfigError, match=r"unreadable 1.*is an Arrow (file|stream): write its rows as JSON lines or Parquet"
    ):
        ingest(folder, Parquet(path="*"))
    (folder / "in" / "a.parquet").rename(folder / "in" / "a.arrow")
    assert [d["text"] for d in ingest(folder, HuggingFace(dataset="."), out="as arrow")[0]] == ["one"]


def test_texts_that_begin_as_something_else_are_texts(folder: Path) -> None:
    """x and a letter are a header of zlib's, a bracket is the first byte of lzma's."""
    for number, text in enumerate(["x^2 + 1\n", "x\u00da and more\n", "]\n", "]]]]]]]]]]]]]]]]\n"]):
        (folder / "in" / f"{number}.txt").write_bytes(text.encode("latin-1"))
        (folder / "in" / f"{number}.wide").write_bytes(text.encode("utf-32"))
    documents, quarantine, _ = ingest(folder, TextFolder(encoding="latin-1", pattern="*"))
    assert len(documents) == 8 and not quarantine

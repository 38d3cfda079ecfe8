"""Web archives as crawlers write them: whatever is odd about one record, the others are read."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard
from fastwarc.warc import WarcRecordType

from tasks.ingest.sources import Warc, warc_records
from tasks.ingest.sources.http_message import Answer, Undecodable, decoded, media_type, parse
from tests.ingest.made import ingest, ingest_for_all, reasons
from tests.ingest.test_formats import HTML, TEXT, page, record

BODY = HTML.replace("{text}", 3 * TEXT.format("odd")).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


def chunked(body: bytes, size: int = 100) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x;name=value\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


def odd(body: bytes, *headers: str, status: str = "HTTP/1.1 200 OK", kind: str = "text/html; charset=utf-8") -> bytes:
    lines = [status, *([f"Content-Type: {kind}"] if kind else []), *headers]
    return record(99, WarcRecordType.response, body, "\r\n".join(lines) + "\r\n\r\n")


GZIP, CHUNKS = "Content-Encoding: gzip", "Transfer-Encoding: chunked"
READ = {
    "gzip in chunks": odd(chunked(gzip.compress(BODY)), GZIP, CHUNKS),
    "gzip undone, chunks left": odd(chunked(BODY), GZIP, CHUNKS),
    "chunks undone, gzip left": odd(gzip.compress(BODY), GZIP, CHUNKS),
    "both undone": odd(BODY, GZIP, CHUNKS),
    "x-gzip": odd(gzip.compress(BODY), "Content-Encoding: x-gzip"),
    "twice": odd(gzip.compress(gzip.compress(BODY)), "Content-Encoding: gzip, gzip"),
    "two codings": odd(brotli.compress(zlib.compress(BODY)), "Content-Encoding: deflate , br"),
    "brotli": odd(brotli.compress(BODY), "content-encoding: BR"),
    "brotli undone": odd(BODY, "Content-Encoding: br"),
    "zstd": odd(zstandard.compress(BODY), "Content-Encoding: zstd"),
    "zstd undone": odd(BODY, "Content-Encoding: zstd"),
    "deflate": odd(zlib.compress(BODY), "Content-Encoding: deflate"),
    "raw deflate": odd(raw_deflate(BODY), "Content-Encoding: deflate"),
    "deflate undone": odd(BODY, "Content-Encoding: deflate"),
    "UTF-8 is no coding": odd(BODY, "Content-Encoding: UTF-8"),
    "no coding at all": odd(BODY, "Content-Encoding:", "Transfer-Encoding: identity"),
    "gzip without saying so is not said by a header of its parts": odd(BODY, "X-Odd: caf\u00e9", " folded", "no colon here", ": no name"),
    "two types": odd(BODY, "Content-Type: image/png"),
    "quoted charset": odd(BODY, kind="text/html;charset='utf-8'"),
    "unknown charset": odd(BODY, kind="text/html; charset=klingon"),
    "no type": odd(BODY, kind=""),
    "type in capitals": odd(BODY, kind="TEXT/HTML"),
    "no reason phrase": odd(BODY, status="HTTP/2 200"),
    "lines end with LF": odd(BODY).replace(b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n", b"HTTP/1.1 200 OK\nContent-Type: text/html; charset=utf-8\n\n   "),
    "no id": odd(BODY).replace(b"WARC-Record-ID: <urn:uuid:99>\r\n", b"").replace(b"warc-record-id: <urn:uuid:99>\r\n", b""),
    "an id without brackets": odd(BODY).replace(b"<urn:uuid:99>", b"urn:uuid:99"),
    "WARC 0.18": odd(BODY).replace(b"WARC/1.1", b"WARC/0.18").replace(b"WARC/1.0", b"WARC/0.18"),
    "lower-case names": odd(BODY).replace(b"Content-Length", b"content-length").replace(b"WARC-Type", b"warc-type"),
    "bytes of no encoding in a header": odd(BODY).replace(b"WARC-Target-URI: http", b"X-Odd: caf\xe9\0\r\nWARC-Target-URI: http"),
    "100 Continue before the answer": odd(BODY, status="HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"),
    "early hints before the answer": odd(BODY, status="HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK"),
    "no HTTP head, and called text": record(99, WarcRecordType.response, BODY),
    "an archive inside": odd(BODY.replace(b"</p>", b"\r\nWARC/1.0\r\nWARC-Type: response\r\n</p>")),
}  # fmt: skip
PASSED_OVER = {
    "100 Continue before not found": odd(BODY, status="HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found"),
    "not found": odd(BODY, status="HTTP/1.1 404 Not Found"),
    "an image": odd(b"\x89PNG\r\n\x1a\n", kind="image/png"),
    "a request": record(99, WarcRecordType.request, b"GET / HTTP/1.1\r\n\r\n"),
    "metadata": record(99, WarcRecordType.metadata, b"fetchTimeMs: 5"),
    "a revisit": record(99, WarcRecordType.revisit, b"", "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"),
    "a resource": record(99, WarcRecordType.resource, b"wget's log"),
}
whole = odd(BODY)
length = whole.split(b"Content-Length: ")[-1].split(b"\r\n")[0]
assert whole.count(b"Content-Length: " + length) == 1


def with_length(value: bytes) -> bytes:
    return whole.replace(b"Content-Length: " + length, b"Content-Length: " + value)


REFUSED = {
    "too short": (with_length(b"40"), "wrong_length"),
    "too long by little": (with_length(b"%d" % (int(length) + 40)), "wrong_length"),
    "too long by much": (with_length(b"99999999"), "wrong_length"),
    "no number": (with_length(b"six"), "wrong_length"),
    "negative": (with_length(b"-6"), "wrong_length"),
    "beyond 64 bits": (with_length(b"9" * 30), "wrong_length"),
    "no length": (whole.replace(b"Content-Length: " + length + b"\r\n", b""), "wrong_length"),
    "garbage": (b"some words\r\nin lines\r\n\r\n", "not_a_record"),
    "no record type": (whole.replace(b"WARC-Type: response\r\n", b""), "no_record_type"),
    "a head without end": (whole[: whole.index(b"\r\n", 40) + 2], "truncated"),
    "the first part of a long record": (whole.replace(b"WARC-Date", b"WARC-Segment-Number: 1\r\nWARC-Date"), "part_of_a_record"),
    "another part": (whole.replace(b"WARC-Type: response", b"WARC-Type: continuation\r\nWARC-Segment-Number: 2"), "part_of_a_record"),
    "no HTTP head": (record(99, WarcRecordType.response, b"some words").replace(b"text/plain", b"application/http"), "no_http_head"),
    "torn gzip": (odd(gzip.compress(BODY)[:-40], GZIP), "unreadable"),
    "torn in chunks": (odd(chunked(BODY)[:150], CHUNKS), "unreadable"),
    "brotli that is neither": (odd(b"\0\1\2" * 99, "Content-Encoding: br"), "unreadable"),
    "a long head": (whole.replace(b"WARC-Date", b"X-Odd: " + b"x" * warc_records.LONGEST_HEAD + b"\r\nWARC-Date"), "header_too_long"),
}  # fmt: skip


def members(data: bytes, size: int) -> bytes:
    """As bgzip packs: members that know nothing of records."""
    return b"".join(gzip.compress(data[i : i + size]) for i in range(0, len(data), size))


PACK: dict[str, Callable[[list[bytes]], bytes]] = {
    "plain": b"".join,
    "a member a record": lambda records: b"".join(map(gzip.compress, records)),
    "one member": lambda records: gzip.compress(b"".join(records)),
    "small members": lambda records: members(b"".join(records), 777),
    "zstd": lambda records: zstandard.compress(b"".join(records)),
}


def own_id(document: dict[str, Any]) -> str:
    """The id of a document, without the number that tells it from the same one in another archive."""
    return document["id"].partition("#")[0]


Read = tuple[str, list[dict], list[dict]]


def read_archives(folder: Path, archives: dict[str, bytes], **settings: Any) -> Iterator[Read]:
    """(name, its documents, its quarantine) of each archive of this name, all read at once."""
    for name, data in archives.items():
        (folder / "in" / name).write_bytes(data)
    documents, quarantine, _ = ingest_for_all(folder, *(Warc(path=name, label=name, **settings) for name in archives))
    for name in archives:
        yield name, [d for d in documents if d["source"] == name], [q for q in quarantine if q["file"] == name]


ONE_OR_ALL = ("plain", "a member a record")
WAYS = {**dict.fromkeys(READ, ONE_OR_ALL), **dict.fromkeys(PASSED_OVER, ONE_OR_ALL[1:]), **dict.fromkeys(REFUSED, PACK)}


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Read]]:
    """Of each record what was read of the archives in which it stands between pages 0 and 1, and 2 and 3: a run of the stage is
    what takes time, and archives know nothing of each other."""
    folder, archives, places = tmp_path_factory.mktemp("archives"), dict[str, bytes](), list[str]()
    (folder / "in").mkdir()
    records = {**READ, **PASSED_OVER, **{kind: one for kind, (one, _) in REFUSED.items()}}
    assert len(records) == len(READ) + len(PASSED_OVER) + len(REFUSED)
    for kind, one in records.items():
        for pack in WAYS[kind]:
            archives[f"{len(places)}.warc"] = PACK[pack]([page(0), page(1), one, page(2), page(3)])
            places.append(kind)
    found = list(read_archives(folder, archives))
    return {kind: [read for place, read in zip(places, found, strict=True) if place == kind] for kind in records}


def odd_ones(reads: list[Read]) -> Iterator[Read]:
    """The same of the record alone, whose neighbours are all there."""
    for name, documents, quarantine in reads:
        assert {f"urn:uuid:{n}" for n in range(4)} <= {own_id(d) for d in documents}
        yield name, [d for d in documents if "page odd" in d["text"]], quarantine


@pytest.mark.parametrize("kind", READ)
def test_a_page_is_read_however_it_was_stored(around: dict[str, list[Read]], kind: str) -> None:
    for _, found, quarantine in odd_ones(around[kind]):
        assert [d["text"].strip().startswith("The main text of page odd") for d in found] == [True] and not quarantine
        assert kind == "no id" or own_id(found[0]) == "urn:uuid:99"
        assert kind != "no id" or found[0]["id"].startswith(f"{found[0]['source']}:")


@pytest.mark.parametrize("kind", PASSED_OVER)
def test_records_that_are_no_pages_are_passed_over(around: dict[str, list[Read]], kind: str) -> None:
    assert [(found, quarantine) for _, found, quarantine in odd_ones(around[kind])] == [([], [])]


@pytest.mark.parametrize("kind", REFUSED)
def test_a_record_that_cannot_be_read_is_quarantined_alone(around: dict[str, list[Read]], kind: str) -> None:
    assert len(around[kind]) == len(PACK)
    for name, found, quarantine in odd_ones(around[kind]):
        assert not found and reasons(quarantine)[0] == (name, 3, REFUSED[kind][1])
        assert len(quarantine) == 1 or kind == "too short"


@pytest.mark.parametrize("kind", ["too long by little", "too long by much"])
def test_a_wrong_length_is_found_out_beyond_what_is_held(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("tasks.ingest.sources.warc.LONGEST_HEAD", 100)
    padded = odd(BODY + b" " * 4000)
    long = padded.replace(b"Content-Length: ", b"Content-Length: " + (b"999" if kind == "too long by much" else b""))
    if kind == "too long by little":
        stated = padded.split(b"Content-Length: ")[1].split(b"\r\n")[0]
        long = padded.replace(b"Content-Length: " + stated, b"Content-Length: %d" % (int(stated) + 40))
    records = [page(0), page(1), long, page(2), page(3)]
    archives = {f"{number}.warc": pack(records) for number, pack in enumerate(PACK.values())}
    for name, documents, quarantine in read_archives(folder, archives, max_document_bytes=len(page(0))):
        assert sorted(own_id(d) for d in documents) == [f"urn:uuid:{n}" for n in range(4)]
        assert reasons(quarantine) == [(name, 3, "wrong_length")]


def test_a_damaged_member_costs_its_record_alone(folder: Path) -> None:
    packed = [gzip.compress(page(n)) for n in range(5)]
    for place in (20, len(packed[2]) // 2, len(packed[2]) - 6):
        broken = bytearray(packed[2])
        broken[place : place + 4] = bytes(~byte & 255 for byte in broken[place : place + 4])
        (folder / "in" / "a.warc.gz").write_bytes(b"".join([*packed[:2], broken, *packed[3:]]))
        documents, quarantine, _ = ingest(folder, Warc(path="*"), out=f"at {place}")
        assert sorted(d["id"] for d in documents) == [f"urn:uuid:{n}" for n in (0, 1, 3, 4)]
        assert reasons(quarantine)[0] == ("a.warc.gz", 3, "unreadable")


def test_lengths_of_plain_text_records_and_marks(folder: Path) -> None:
    bodies = ["\N{SNOWMAN} utf-8", "\ufeffwith a mark", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"]
    charsets = ["utf-8", "utf-8", "latin-1"]
    (folder / "in" / "a.warc").write_bytes(
        b"".join(
            record(n, WarcRecordType.response, body.encode(charset), f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset={charset}\r\n\r\n")
            for n, (body, charset) in enumerate(zip(bodies, charsets, strict=True))
        )
    )  # fmt: skip
    documents, quarantine, _ = ingest(folder, Warc(path="*"))
    assert {d["text"] for d in documents} == {body.removeprefix("\ufeff") for body in bodies} and not quarantine


def test_a_byte_order_mark_before_a_record_costs_none(folder: Path) -> None:
    """At the beginning, between two archives, and behind a record whose length is wrong."""
    mark = b"\xef\xbb\xbf"
    wrong = re.sub(rb"Content-Length: \d+", b"Content-Length: 7", page(3))
    (folder / "in" / "a.warc").write_bytes(mark + page(1) + mark + page(2) + wrong + mark + page(4))
    documents, quarantine, _ = ingest(folder, Warc(path="*"))
    assert sorted(d["id"] for d in documents) == [f"urn:uuid:{n}" for n in (1, 2, 4)]
    assert reasons(quarantine) == [("a.warc", 3, "wrong_length")]


def test_wget_puts_addresses_between_brackets(folder: Path) -> None:
    (folder / "in" / "a.warc").write_bytes(page(1).replace(b"http://example.org/1", b"<http://example.org/1>"))
    documents, *_ = ingest(folder, Warc(path="*"))
    assert json.loads(documents[0]["meta"])["url"] == "http://example.org/1"


def test_an_arc_file_is_named(folder: Path) -> None:
    (folder / "in" / "a.arc").write_bytes(b"filedesc://a.arc 0.0.0.0 20080101000000 text/plain 76\n1 0 Crawl\n")
    (folder / "in" / "b.warc").write_bytes(page(1))
    documents, quarantine, _ = ingest(folder, Warc(path="*"))
    assert len(documents) == 1 and reasons(quarantine) == [("a.arc", 1, "not_a_record")]
    assert "ARC file" in quarantine[0]["excerpt"]


def test_a_body_that_expands_is_not_made_beyond_the_limit(folder: Path) -> None:
    """64 MB of white space in 64 kB, by each coding."""
    page_of_spaces = BODY + b" " * (64 << 20)
    bodies = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "zstd": zstandard.compress,
        "br": lambda b: brotli.compress(b, quality=1),
    }
    for name, pack in bodies.items():
        packed = Answer(200, {"content-encoding": name}, pack(page_of_spaces))
        assert 1000 < len(decoded(packed, 1000)) < (1 << 20), name


@pytest.mark.parametrize("body", [b"face\r\nis a word", b"cafe\r\n", b"", b"0", b"12 bytes of text"])
def test_a_body_that_only_looks_chunked_is_taken_as_it_is(body: bytes) -> None:
    assert decoded(Answer(200, {"transfer-encoding": "chunked"}, body), 99) == body


def test_chunks_that_end_early_are_told() -> None:
    for cut in (105, 150, -6, -5):
        with pytest.raises(Undecodable):
            decoded(Answer(200, {"transfer-encoding": "chunked"}, chunked(BODY)[:cut]), 10**6)


def test_headers_of_an_answer() -> None:
    found = parse(b"HTTP/1.1 200 OK\r\nA: 1\r\n  2\r\na: 3\r\nno colon\r\n  folded\r\nB : \xff\r\n\r\n\r\nrest")
    assert found == Answer(200, {"a": "1 2", "b": "\xff"}, b"\r\nrest")
    assert parse(b"HTTP/1.1 odd\r\nA: 1") == Answer(None, {"a": "1"}, b"") and parse(b"<html>") is None
    assert parse(b"HTTP/1.1 204 No\r\n\r\n") == Answer(204, {}, b"")
    assert media_type(' Text/HTML ; Charset="UTF-8"; x=y') == ("text/html", "UTF-8") and media_type("") == ("", None)

"""What each format may hold: tables with odd columns, archives with odd records, data sets of the hub's library."""

import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastwarc.warc import WarcRecord, WarcRecordType

from tasks.core.config import ConfigError
from tasks.ingest.checks import check
from tasks.ingest.sources import Csv, HuggingFace, Jsonl, Parquet, Warc
from tasks.ingest.sources.base import ROWS
from tests.ingest.made import ingest, reasons, row

PAGE = "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n"
HTML = (
    "<html><head><title>T</title><script>var x = 1;</script></head><body><nav><ul><li><a href='/'>Home</a></li></ul></nav>"
    "<main><article><p>{text}</p></article></main><footer>About us</footer></body></html>"
)
TEXT = "The main text of page {} is long enough to be taken for what the page is about, and says so. "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


def texts(documents: list[dict]) -> list[str]:
    return sorted(document["text"] for document in documents)


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.binary(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
    ids=str,
)
def test_every_kind_of_string_is_text(folder: Path, kind: pa.DataType) -> None:
    column = pa.array(["first", "second \N{SNOWMAN}", None, "first"], pa.string()).cast(
        kind.value_type if pa.types.is_dictionary(kind) else kind
    )
    column = column.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else column
    pq.write_table(pa.table({"text": column, "id": [4, 5, 6, 7]}), folder / "in" / "a.parquet")
    documents, quarantine, _ = ingest(folder, Parquet(path="*"))
    assert {d["id"]: d["text"] for d in documents} == {"4": "first", "5": "second \N{SNOWMAN}", "7": "first"}
    assert reasons(quarantine) == [("a.parquet", 3, "null_text")]


def test_the_file_may_stand_in_meta(folder: Path) -> None:
    for name in ("a", "b"):
        rows = [{"text": f"{name} {i}", "file": "theirs", "k": "\ud800"} for i in range(2)]
        (folder / "in" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    documents, _, _ = ingest(folder, Jsonl(path="*.jsonl", file_in_meta=True))
    assert {(d["text"], json.loads(d["meta"])["file"]) for d in documents} == {
        (f"{name} {i}", f"{name}.jsonl") for name in ("a", "b") for i in range(2)
    }
    documents, _, _ = ingest(folder, Jsonl(path="*.jsonl"), out="without")
    assert {json.loads(d["meta"])["file"] for d in documents} == {"theirs"}


def test_parquet_files_of_other_schemas(folder: Path) -> None:
    good = pa.table({"text": ["good"], "stars": [5], "when": pa.array([0], pa.timestamp("s"))})
    pq.write_table(good, folder / "in" / "a.parquet")
    pq.write_table(pa.table({"body": ["x"]}), folder / "in" / "b.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), folder / "in" / "c.parquet")
    pq.write_table(pa.table({"text": [["a", "b"]]}), folder / "in" / "d.parquet")
    whole = (folder / "in" / "a.parquet").read_bytes()
    (folder / "in" / "e.parquet").write_bytes(whole[: len(whole) // 2])
    invalid = pa.array([b"fine", b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": invalid}), folder / "in" / "f.parquet")
    documents, quarantine, _ = ingest(folder, Parquet(path="*"))
    assert texts(documents) == ["fine", "good"]
    about = json.loads(next(d["meta"] for d in documents if d["text"] == "good"))
    assert about["stars"] == 5 and about["when"].startswith("1970-01-01") and list(about) == ["stars", "when"]
    assert reasons(quarantine) == [
        ("b.parquet", 0, "missing_text"),
        ("c.parquet", 0, "text_is_not_a_string"),
        ("d.parquet", 0, "text_is_not_a_string"),
        ("e.parquet", 0, "unreadable"),
        ("f.parquet", 2, "invalid_utf8"),
    ]


def test_a_parquet_file_torn_in_its_middle_gives_the_groups_before(folder: Path) -> None:
    path = folder / "in" / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(900)]}), path, row_group_size=300, compression="zstd")
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    documents, quarantine, _ = ingest(folder, Parquet(path="*"))
    assert len(documents) == 300 and reasons(quarantine) == [("a.parquet", 301, "unreadable")]


def test_columns_are_mapped(folder: Path) -> None:
    rows = [
        {"body": "one", "key": "k1", "b": 1, "a": {"z": [1], "y": None}},
        {"body": "two", "key": "k2", "b": 2, "a": {}},
    ]
    (folder / "in" / "a.jsonl").write_bytes(b"".join(json.dumps(each).encode() + b"\n" for each in rows))
    pq.write_table(pa.table({"body": ["three"], "key": ["k3"], "b": [3], "c": [4]}), folder / "in" / "b.parquet")
    (folder / "in" / "c.csv").write_text("b,key,body\n5,k4,four\n")
    named = {"text_field": "body", "id_field": "key"}
    documents, *_ = ingest(
        folder, Jsonl(path="*.jsonl", **named), Parquet(path="*.parquet", **named), Csv(path="*.csv", **named)
    )
    assert {d["id"]: d["meta"] for d in documents} == {
        "k1": '{"a":{"y":null,"z":[1]},"b":1}',
        "k2": '{"a":{},"b":2}',
        "k3": '{"b":3,"c":4}',
        "k4": '{"b":"5"}',
    }
    few = Parquet(path="*.parquet", meta_fields=["c", "missing"], **named)
    assert [d["meta"] for d in ingest(folder, few, out="few")[0]] == ['{"c":4}']


def test_what_json_cannot_spell_in_meta_becomes_a_string(folder: Path) -> None:
    (folder / "in" / "a.jsonl").write_bytes(b'{"text": "x", "score": NaN, "odd": "\\ud800"}\n' + row("y", n=2**70))
    documents, quarantine, _ = ingest(folder, Jsonl(path="*"))
    about = {d["text"]: json.loads(d["meta"]) for d in documents}
    assert about["x"] == {"odd": "\ud800", "score": "nan"} and about["y"] == {"n": float(2**70)} and not quarantine


def test_csv_quoting_delimiters_and_ragged_rows(folder: Path) -> None:
    (folder / "in" / "a.csv").write_bytes(
        b'\xef\xbb\xbfid,text,x\n1,"a, ""quoted""\nline",y\n2,short\n3,one,two,three\n4,"caf\xe9",y\n\n,good,\n5,"open to the end,y\n'
    )
    (folder / "in" / "b.tsv.gz").write_bytes(gzip.compress(b"text\tid\nof, tabs\tb1\n"))
    (folder / "in" / "c.csv").write_text("a,b\n1,2\n")
    (folder / "in" / "d.csv").write_text("text;id\nhalves;d1\n")
    comma, semicolon = Csv(path="[abc].*"), Csv(path="d.csv", label="d", delimiter=";")
    documents, quarantine, _ = ingest(folder, comma, semicolon)
    assert texts(documents) == ['a, "quoted"\nline', "good", "halves", "of, tabs"]
    assert reasons(quarantine) == [
        ("a.csv", 4, "ragged_row"),
        ("a.csv", 5, "ragged_row"),
        ("a.csv", 6, "invalid_utf8"),
        ("a.csv", 9, "truncated"),
        ("c.csv", 0, "missing_text"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_csv_whose_lines_end_in_carriage_returns_alone_is_read(folder: Path, encoding: str) -> None:
    text = 'id,text,"a\rb"\r1,"two\r""lines""",x\r\r2,caf\u00e9,y\r3,short\r'
    (folder / "in" / "a.csv").write_bytes(text.encode(encoding))
    (folder / "in" / "b.csv.gz").write_bytes(gzip.compress(text.replace("1", "4").replace("2", "5").encode(encoding)))
    documents, quarantine, _ = ingest(folder, Csv(path="*", encoding="latin-1" if encoding == "latin-1" else "utf-8"))
    assert {d["id"]: d["text"] for d in documents} == dict.fromkeys("14", 'two\n"lines"') | dict.fromkeys(
        "25", "caf\u00e9"
    )
    assert {d["meta"] for d in documents} == {'{"a\\nb":"x"}', '{"a\\nb":"y"}'}
    assert reasons(quarantine) == [("a.csv", 7, "ragged_row"), ("b.csv.gz", 7, "ragged_row")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"])
def test_csv_of_other_line_ends_keeps_what_quotes_hold(folder: Path, end: str) -> None:
    (folder / "in" / "a.csv").write_bytes(f'id,text{end}1,"one\rmore"{end}2,two{end}'.encode())
    documents, quarantine, _ = ingest(folder, Csv(path="*"))
    assert texts(documents) == ["one\rmore", "two"] and not quarantine


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_quote_that_is_never_closed_makes_no_document_of_what_follows(folder: Path, end: str) -> None:
    """With as many fields as there are columns, it would be one."""
    rows = "".join(f"{number},row {number}\n" for number in range(2, 9))
    (folder / "in" / "a.csv").write_text(f'id,text\n0,whole\n1,"open\n{rows}9,last{end}')
    documents, quarantine, _ = ingest(folder, Csv(path="*"))
    assert texts(documents) == ["whole"] and reasons(quarantine) == [("a.csv", 3, "truncated")]
    assert "open 8 lines later" in quarantine[0]["excerpt"]


def test_a_csv_with_two_columns_of_one_name_loses_neither(folder: Path) -> None:
    (folder / "in" / "a.csv").write_text("id,text,v,v,text,id\n1,one,2,3,more,4\nid,text,v,v,text,id\n")
    [document], quarantine, _ = ingest(folder, Csv(path="*"))
    assert (document["id"], document["text"]) == ("1", "one")
    assert json.loads(document["meta"]) == {"id#2": "4", "text#2": "more", "v": "2", "v#2": "3"}
    assert reasons(quarantine) == [("a.csv", 3, "repeated_header")]


def record(number: int, kind: WarcRecordType, body: bytes, http: str | None = None) -> bytes:
    made, out = WarcRecord(), io.BytesIO()
    made.init_headers(kind, f"<urn:uuid:{number}>".encode())
    made.headers["WARC-Record-ID"] = f"<urn:uuid:{number}>"
    made.headers["WARC-Target-URI"] = f"http://example.org/{number}"
    made.headers["WARC-Date"] = "2026-01-02T03:04:05Z"
    made.headers["Content-Type"] = "application/http; msgtype=response" if http else "text/plain"
    made.is_http = bool(http)
    made.set_bytes_content((http or "").encode() + body)
    made.write(out)
    return out.getvalue()


def page(number: int, kind: str = "text/html; charset=utf-8", text: str = TEXT, encoding: str = "utf-8") -> bytes:
    body = HTML.replace("{text}", 3 * text.format(number)).encode(encoding)
    return record(number, WarcRecordType.response, body, PAGE.format(kind=kind))


def test_warc_gives_the_main_text_of_pages(folder: Path) -> None:
    (folder / "in" / "a.warc.gz").write_bytes(
        gzip.compress(record(0, WarcRecordType.warcinfo, b"software: a test"))
        + gzip.compress(page(1))
        + gzip.compress(page(2, "text/html", "Gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n " + TEXT, "latin-1"))
        + gzip.compress(page(3, "image/png"))
        + gzip.compress(record(4, WarcRecordType.request, b"GET / HTTP/1.1\r\n\r\n"))
    )
    documents, quarantine, _ = ingest(folder, Warc(path="*"))
    found = {d["id"]: d for d in documents}
    assert set(found) == {"urn:uuid:1", "urn:uuid:2"} and not quarantine
    assert found["urn:uuid:1"]["text"].strip() == (3 * TEXT.format(1)).strip()
    assert found["urn:uuid:2"]["text"].startswith("Gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n The main text of page 2")
    about = {"content_type": "text/html", "date": "2026-01-02T03:04:05Z", "url": "http://example.org/1"}
    assert json.loads(found["urn:uuid:1"]["meta"]) == about


def test_wet_gives_its_texts(folder: Path) -> None:
    records = [record(n, WarcRecordType.conversion, f"text {n} \N{SNOWMAN}".encode()) for n in range(3)]
    records += [record(3, WarcRecordType.conversion, b"caf\xe9"), record(4, WarcRecordType.conversion, b"x" * 3000)]
    (folder / "in" / "a.wet").write_bytes(b"".join(records))
    documents, quarantine, _ = ingest(folder, Warc(path="*", max_document_bytes=2000))
    assert texts(documents) == [f"text {n} \N{SNOWMAN}" for n in range(3)]
    assert reasons(quarantine) == [("a.wet", 4, "invalid_utf8"), ("a.wet", 5, "document_too_long")]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("inside", ["header", "body"])
def test_a_warc_torn_in_its_middle_gives_the_records_before(folder: Path, packed: bool, inside: str) -> None:
    pack = gzip.compress if packed else bytes
    whole, last = b"".join(pack(page(n)) for n in range(3)), pack(page(3))
    left = len(last) // 2 if inside == "body" else 15
    (folder / "in" / f"a.warc{'.gz' if packed else ''}").write_bytes(whole + last[:left])
    documents, quarantine, _ = ingest(folder, Warc(path="*"))
    assert len(documents) == 3
    assert [(q["row"], q["reason"]) for q in quarantine] in ([(4, "truncated")], [(4, "unreadable")])


def test_a_data_set_of_this_machine_is_read_shard_by_shard(folder: Path) -> None:
    (folder / "in" / "tables").mkdir()
    (folder / "in" / "lines").mkdir()
    for number in range(3):
        rows = {
            "id": [f"{number}-{n}" for n in range(4)],
            "text": [f"text {number} {n}" for n in range(4)],
            "n": range(4),
        }
        pq.write_table(pa.table(rows), folder / "in" / "tables" / f"train-{number}.parquet")
    (folder / "in" / "lines" / "train.jsonl").write_bytes(row("of json") + row(None))
    tables, lines = HuggingFace(dataset="tables"), HuggingFace(dataset="lines", label="lines")
    documents, quarantine, metrics = ingest(folder, tables, lines)
    assert metrics["documents_hugging_face"] == 12 and metrics["documents_lines"] == 1
    assert {json.loads(d["meta"])["n"] for d in documents if d["source"] == "hugging_face"} == {0, 1, 2, 3}
    assert [(q["row"], q["reason"]) for q in quarantine] == [(2, "null_text")]
    _, _, metrics = ingest(folder, HuggingFace(dataset="tables", shards=2), out="some")
    assert metrics["documents"] == 8
    with pytest.raises(ConfigError, match="hugging_face: nothing/here: "):
        ingest(folder, HuggingFace(dataset="nothing/here"), out="none")


def test_checks_name_the_first_reason_of_each_row() -> None:
    values = [b"good", None, b"", b" \n\t\xc2\xa0", b"nul \0", b"\xff", b"long" * 10, b"\xe2\x98\x83", b" good"]
    columns = [
        pa.array(range(1, 10), pa.int64()),
        pa.nulls(9, pa.string()),
        pa.array(values, pa.large_binary()).view(pa.large_string()),
        pa.array(["{}"] * 9),
    ]
    batch = pa.record_batch(columns, schema=ROWS)
    for rows in (batch, pa.concat_batches([batch.slice(3), batch]).slice(6)):
        found = check(rows, 30)
        assert found.good.column("row").to_pylist() == [1, 8, 9]
        assert [(r.row, r.reason) for r in found.rejected] == [
            (2, "null_text"),
            (3, "empty_text"),
            (4, "empty_text"),
            (5, "nul_bytes"),
            (6, "invalid_utf8"),
            (7, "document_too_long"),
        ]

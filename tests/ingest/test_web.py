"""Input by http from a real server of this machine: one that sends parts of files, and one that does not."""

import gzip
import io
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from tasks.core.config import ConfigError
from tasks.core.tables import read_table
from tasks.ingest.sources import Csv, Jsonl, Parquet, TextFolder
from tests.ingest.made import documents_digest, ingest, row

LINES = b"".join(row(f"line {number}", id=f"l{number}") for number in range(500))
# What fsspec asks for at once is 8 MiB: a file beyond it comes in parts.
BEYOND_A_PART = 9 << 20


def table() -> bytes:
    """A Parquet file beyond a part; noise, so that it stays as large."""
    texts = [random.Random(number).randbytes(BEYOND_A_PART // 200).hex() for number in range(100)]
    file = io.BytesIO()
    pq.write_table(pa.table({"id": list(map(str, range(100))), "text": texts}), file, compression="none")
    return file.getvalue()


FILES = {
    "/a.jsonl": LINES,
    "/b.jsonl.gz": gzip.compress(LINES, mtime=0),
    "/c.tsv": b"text\tid\nfirst, and so on\t1\n",
    "/d.parquet": table(),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    sends_parts = True

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def answer(self, whole: bool) -> None:
        content = FILES.get(self.path.partition("?")[0])
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        status = (
            403 if self.path == "/secret" else 404 if content is None else 206 if asked and self.sends_parts else 200
        )
        part = content or b""
        if status == 206 and asked:
            first, last = int(asked[1]), min(int(asked[2] or len(part)), len(part) - 1)
            part = part[first : last + 1]
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content or b'')}")
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if whole:
            with suppress(ConnectionError):  # who is sent more than asked for hangs up
                self.wfile.write(part)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Whole(Handler):
    sends_parts = False


@pytest.fixture(params=[Handler, Whole], ids=["parts", "whole"])
def handler(request: pytest.FixtureRequest) -> type[Handler]:
    return request.param


@pytest.fixture
def server(handler: type[Handler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name, content in FILES.items():
        (tmp_path / "in" / name[1:]).write_bytes(content)
    return tmp_path


def test_links_give_what_files_give(folder: Path, server: str) -> None:
    """A query is no part of the name: what follows it does not hide that a file is compressed, or has tabs."""
    here = [Jsonl(path="a.jsonl"), Jsonl(path="b.jsonl.gz", label="b"), Csv(path="c.tsv")]
    there = [
        Jsonl(path=f"{server}/a.jsonl"),
        Jsonl(path=f"{server}/b.jsonl.gz?download=1", label="b"),
        Csv(path=f"{server}/c.tsv?a[]=*"),
    ]
    assert documents_digest(folder, *there, out="there") == documents_digest(folder, *here, out="here")
    recorded = read_table(folder / "there" / "ingest" / "remote.parquet")
    assert set(recorded["file"].to_pylist()) == {source.path for source in there}
    assert set(recorded["tag"].to_pylist()) == {'"one"'}


def test_a_file_in_parts(folder: Path, server: str, handler: type[Handler]) -> None:
    """Without parts it is the server that cannot be used: the file must not be taken for a damaged one."""
    there = Parquet(path=f"{server}/d.parquet")
    if handler.sends_parts:
        assert documents_digest(folder, there, out="there") == documents_digest(folder, Parquet(path="d.parquet"))
    else:
        with pytest.raises(OSError, match="d.parquet: the server sends the whole file where a part is asked for"):
            ingest(folder, there)


def test_what_is_not_there_is_an_error_that_names_it(folder: Path, server: str) -> None:
    with pytest.raises(ConfigError, match=f"jsonl: no file matches '{server}/none.jsonl'"):
        ingest(folder, Jsonl(path=f"{server}/none.jsonl"))
    with pytest.raises(ConfigError, match=f"jsonl: {server}/secret: the server answers 403"):
        ingest(folder, Jsonl(path=f"{server}/secret"), out="secret")
    for source in (Jsonl(path=f"{server}/*.jsonl"), TextFolder(path=server)):
        with pytest.raises(ConfigError, match=re.escape(server) + ".*a web server does not list its files"):
            ingest(folder, source, out=source.name)


@pytest.mark.parametrize("name", ["X-Amz-Signature", "Signature", "sig", "token", "access_token", "key", "apikey"])
def test_a_signed_link_is_refused(name: str) -> None:
    """It would be kept with every run."""
    with pytest.raises(ValidationError, match="holds credentials"):
        Jsonl(path=f"https://store/a.jsonl?download=1&{name}=abc")

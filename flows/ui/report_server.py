"""The report's page over http, read only: what `make ui` links to, since a browser follows no file:// link of its pages."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from flows.servers.answers import names_of
from flows.servers.password import admits
from flows.servers.prefect_and_mlflow import HOST

# The page is one file that needs nothing else and runs no script; texts of models and documents stand in it.
NOTHING = ("default-src", "base-uri", "form-action", "frame-ancestors")
POLICY = "; ".join([*(f"{kind} 'none'" for kind in NOTHING), "style-src 'unsafe-inline'", "img-src data:"])
NONE_YET = b"<!doctype html><title>No report yet</title><p>There is no report yet: a run writes it at its end."


@contextmanager
def report_page(page: Path, port: int, password: str | None) -> Iterator[str]:
    """Serve this one file at the root of a port of this machine until the block ends; gives the address."""
    names = names_of(port)

    class Handler(BaseHTTPRequestHandler):
        """Answers GET and HEAD of / alone: no path is ever made out of what was asked for."""

        server_version, sys_version = "tokenmill", ""

        def do_GET(self) -> None:
            if self.headers.get("Host") not in names:  # a foreign name that leads here is somebody's attempt to read it
                return self._answer(HTTPStatus.FORBIDDEN, b"")
            if not admits(dict(self.headers), password):
                return self._answer(HTTPStatus.UNAUTHORIZED, b"")
            if self.path not in ("/", "/index.html"):
                return self._answer(HTTPStatus.NOT_FOUND, b"")
            try:
                return self._answer(HTTPStatus.OK, page.read_bytes())
            except FileNotFoundError:
                return self._answer(HTTPStatus.NOT_FOUND, NONE_YET)

        do_HEAD = do_GET

        def _answer(self, status: HTTPStatus, body: bytes) -> None:
            self.send_response(status)
            if status == HTTPStatus.UNAUTHORIZED:
                self.send_header("WWW-Authenticate", 'Basic realm="tokenmill report"')
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing: the terminal shows the runs."""

    server = ThreadingHTTPServer((HOST, port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

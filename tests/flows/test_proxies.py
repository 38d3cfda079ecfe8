"""Proxies that the environment names do not stand between us and our own servers."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.environment import environment
from flows.preflight.services import check_proxies
from flows.servers.prefect_and_mlflow import HOST, prefect_environment, server_environment
from tasks.runner.proxies import without_proxy
from tests.forks.process import DVC, run_forked
from tests.ports import dead_port
from tests.processes import PATIENCE
from tests.project import ROOT

# {} is a port that refuses
DEAD = "http://127.0.0.1:{}"
SOCKS = "socks5://127.0.0.1:{}"
SETTINGS = [
    {"HTTP_PROXY": DEAD, "http_proxy": DEAD},
    {"http_proxy": DEAD, "no_proxy": "example.org"},
    {"HTTP_PROXY": DEAD, "http_proxy": DEAD, "NO_PROXY": "localhost"},
    {"ALL_PROXY": SOCKS, "all_proxy": SOCKS},
    {"ALL_PROXY": SOCKS, "no_proxy": "localhost"},
    {"ALL_PROXY": "socks5h://127.0.0.1:{}", "NO_PROXY": "*"},
]
PROXIES = [name for name in os.environ if name.lower().endswith("_proxy")]
# Each of the clients that our processes use, in a process as we start it.
CLIENTS = {
    "urllib, for a server that runs may use": "from flows.servers.answers import server_answers; assert server_answers(url)",
    "httpx, of Prefect": "import httpx; httpx.Client().get(url + '/health').raise_for_status()",
    "httpx, of Prefect's asynchronous client": "import asyncio, httpx; asyncio.run(httpx.AsyncClient().get(url))",
    "requests, of MLflow": "import requests; requests.get(url).raise_for_status()",
    "preflight": f"from flows.preflight import services as s; s.SECONDS = {PATIENCE}; "
    "assert not [*s.check_proxies(), *s.check_mlflow(), *s.check_prefect()]",
}


class Answers(BaseHTTPRequestHandler):
    """Answers every GET with an empty object."""

    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer((HOST, 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("named", SETTINGS, ids=lambda named: " ".join(f"{k}={v}" for k, v in named.items()))
def test_every_client_reaches_our_servers_directly(
    named: dict[str, str], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    for name, text in named.items():
        monkeypatch.setenv(name, text.format(dead_port()))
    surroundings = environment(ROOT) | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": url, "PREFECT_API_URL": url}
    program = f"""
import json, traceback
url, failed = {url!r}, {{}}
for what, code in {CLIENTS!r}.items():
    try:
        exec(code, {{"url": url}})
    except Exception as error:
        failed[what] = f"{{type(error).__name__}}: {{error}}"
print(json.dumps(failed))
"""
    (tmp_path / "asks_all.py").write_text(program)
    done = run_forked("asks_all", [], tmp_path, surroundings, DVC)
    assert json.loads(done.stdout or "null") == {}, done.stderr


def test_a_stage_of_plain_dvc_reaches_mlflow_directly(url: str) -> None:
    surroundings = {name: text for name, text in os.environ.items() if name not in (*PROXIES, "NO_PROXY", "no_proxy")}
    dead = DEAD.format(dead_port())
    surroundings |= {"http_proxy": dead, "HTTP_PROXY": dead, "MLFLOW_TRACKING_URI": url}
    program = "from tasks.runner.tracking import tags_of; tags_of('0' * 32)"
    subprocess.run(
        [sys.executable, "-P", "-c", program], env=surroundings | {"PYTHONPATH": str(ROOT)}, cwd="/", check=True
    )
    assert [path for path in Answers.asked if path.startswith("/api/2.0/mlflow/runs/get")]


def test_the_servers_and_their_clients_are_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "example.org")
    for made in (prefect_environment(4200), server_environment(4200, None)):
        assert made["no_proxy"] == made["NO_PROXY"] and {"example.org", HOST, "localhost"} <= set(
            made["no_proxy"].split(",")
        )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "localhost"}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "a, b", "no_proxy": "c"}, "a,b,c,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "a", "no_proxy": "*"}, "*"),
        ({"NO_PROXY": ",,"}, "127.0.0.1,localhost,::1"),
    ],
)
def test_what_the_user_excludes_stays_excluded(before: dict[str, str], after: str) -> None:
    assert without_proxy(before) == {"NO_PROXY": after, "no_proxy": after}
    assert without_proxy(without_proxy(before)) == without_proxy(before)


@pytest.mark.parametrize("text", ["socks://127.0.0.1:1080", "ftp://x", "http://x:port"])
def test_a_proxy_that_no_client_takes_is_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", text)
    [finding] = check_proxies()
    assert str(finding).startswith(f"ALL_PROXY={text}: is no proxy that Prefect's client can use") and "unset" in str(
        finding
    )

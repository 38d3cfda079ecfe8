"""What is asked of us from outside stays where it may be: passwords, the report's page, and every path out of params or
data."""

import gzip
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from flows.environment import environment
from flows.params.compose import check_targets, compose
from flows.params.paths import path_mistakes
from flows.servers.answers import names_of
from flows.servers.password import PasswordError, header, take_password
from flows.servers.prefect_and_mlflow import HOST, mlflow_environment, prefect_environment, server_environment
from flows.ui import report_server
from flows.ui.__main__ import login
from flows.ui.report_server import report_page
from lm.hugging_face.load import read_weights
from tasks.core.config import ConfigError, load
from tasks.ingest.sources.jsonl import Jsonl
from tasks.ingest.sources.text_folder import TextFolder
from tasks.ingest.stage import IngestConfig
from tests.forks.process import run_forked
from tests.ingest.made import GOOD, ingest, row
from tests.ports import free_port
from tests.processes import PATIENCE
from tests.project import ROOT, TINY, make_project, start_stage

PASSWORD = "correct horse battery"  # noqa: S105
LEADING_OUT = [
    "../../etc/passwd", "/etc/passwd", "a/../../b", "file:///etc/passwd", "local:///etc/passwd", "zip://a::/etc/b", "a\nb", "a\0b",
]  # fmt: skip
WITH_CREDENTIALS = ["https://user:secret@host/a", "s3://key:secret@bucket/a"]


@pytest.mark.parametrize(
    "password", [" ", "too short", "a password\nof two lines", "p\u00e4sswords are long", " spaces at its ends "]
)
def test_a_password_that_a_server_would_not_take_is_refused_unquoted(password: str) -> None:
    with pytest.raises(PasswordError, match="TOKENMILL_PASSWORD: needs 12 characters") as caught:
        take_password({"TOKENMILL_PASSWORD": password})
    assert not password.strip() or password not in str(caught.value)


def test_a_password_leaves_the_environment_and_goes_to_those_who_need_it_alone() -> None:
    variables = {"TOKENMILL_PASSWORD": PASSWORD}
    assert take_password(variables) == PASSWORD and variables == {}
    without = {**prefect_environment(4200), **server_environment(4200, None), **mlflow_environment()}
    assert not [name for name in without if "AUTH" in name and name not in os.environ]
    client, server = prefect_environment(4200, PASSWORD), server_environment(4200, PASSWORD)
    assert {n for n, v in client.items() if PASSWORD in v} == {"PREFECT_API_AUTH_STRING"}
    assert {n for n, v in server.items() if PASSWORD in v} == {
        "PREFECT_API_AUTH_STRING",
        "PREFECT_SERVER_API_AUTH_STRING",
    }
    assert server["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
    assert server["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4200,http://localhost:4200"


def test_without_a_password_one_is_made_and_none_must_be_asked_for() -> None:
    made = {take_password({}) for _ in range(50)}
    assert len(made) == 50 and all(len(password or "") >= 24 for password in made)
    variables = {"TOKENMILL_PASSWORD": ""}
    assert take_password(variables) is None and variables == {}
    assert "any account of this machine can act as you here" in login(None, True)
    assert f"admin:{PASSWORD}" in login(PASSWORD, False) and PASSWORD not in login(PASSWORD, True)


def test_telemetry_is_off_in_all_that_is_started() -> None:
    found = environment(ROOT)
    off = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    assert off.items() <= found.items() and found["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    program = (
        "from mlflow.telemetry.utils import is_telemetry_disabled; from dvc.analytics import is_enabled; "
        "from prefect._internal.analytics.enabled import is_telemetry_enabled; "
        "print(is_telemetry_disabled(), is_enabled(), is_telemetry_enabled())"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], env=found, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """The address of a report with a password; beside it lies what nobody may read."""
    (tmp_path / "report").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "report" / "index.html").write_text("<p>the report</p>")
    port = free_port()
    with report_page(tmp_path / "report" / "index.html", port, PASSWORD):
        yield HOST, port


def answer(served: tuple[str, int], path: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(*served, timeout=PATIENCE)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    found = connection.getresponse()
    return found.status, found.read().decode(), dict(found.headers)


def test_the_report_is_given_to_who_logs_in_and_nothing_else_is(served: tuple[str, int]) -> None:
    logged_in = header(PASSWORD)
    status, text, headers = answer(served, "/", **logged_in)
    assert (status, text) == (200, "<p>the report</p>") and "default-src 'none'" in headers["Content-Security-Policy"]
    assert answer(served, "/")[:2] == (401, "") and answer(served, "/", **header("another password"))[0] == 401
    for path in (
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "//secret.txt",
        "/index.html/../../secret.txt",
        "/report",
        "/\\..\\x",
    ):
        assert answer(served, path, **logged_in)[:2] == (404, "")
    assert answer(served, "/", Host="evil.example", **logged_in)[0] == 403
    assert answer(served, "/", method="POST", **logged_in)[0] == 501


def test_on_port_80_clients_name_no_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket at another port stands in, which 80 may refuse to who is not root."""
    assert names_of(8000) == ["127.0.0.1:8000", "localhost:8000"]
    assert names_of(80) == ["127.0.0.1:80", "localhost:80", "127.0.0.1", "localhost"]
    (tmp_path / "index.html").write_text("<p>the report</p>")
    port = free_port()
    instead = partial(report_server.ThreadingHTTPServer, (HOST, port))
    monkeypatch.setattr(report_server, "ThreadingHTTPServer", lambda _, handler: instead(handler))
    with report_page(tmp_path / "index.html", 80, None):
        for host in ("127.0.0.1", "localhost", "localhost:80"):
            assert answer((HOST, port), "/", Host=host)[:2] == (200, "<p>the report</p>")
        for host in ("evil.example", f"localhost:{port}", "evil.example:80"):
            assert answer((HOST, port), "/", Host=host)[0] == 403


@pytest.mark.parametrize("path", LEADING_OUT + WITH_CREDENTIALS)
@pytest.mark.parametrize(("method", "key"), [("jsonl", "path"), ("text_folder", "path"), ("hugging_face", "dataset")])
def test_a_source_names_nothing_outside_its_folder_and_no_credentials(method: str, key: str, path: str) -> None:
    sources = [{"name": method, key: path}]
    with pytest.raises(ConfigError) as caught:
        load("ingest", IngestConfig, {"ingest": {"max_bytes": 1, "sources": sources}, "seed": 0})
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"params.yaml: ingest.sources.0.{key}: ") and repr(path) in line


def test_a_link_to_a_folder_is_refused_and_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    """DVC hashes what a link to a file leads to, and does not look behind one to a folder."""
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "out" / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "out")
    for number, source in enumerate([Jsonl(path="folder/*.jsonl"), TextFolder(path="folder", pattern="*.jsonl")]):
        with pytest.raises(ConfigError, match="folder is a link to a folder, .* name that folder itself"):
            ingest(tmp_path, source, out=str(number))
    (tmp_path / "in" / "b.jsonl").symlink_to(tmp_path / "out" / "a.jsonl")
    documents, *_ = ingest(tmp_path, Jsonl(path="**/*.jsonl"))
    assert [document["id"] for document in documents] == ["good"]


def test_names_out_of_data_are_never_paths(tmp_path: Path) -> None:
    """Ids, labels, and the name that an archive gives its content."""
    (tmp_path / "in").mkdir()
    names = ["../../id", "/tmp/id", "a\nb", "..", "C:\\id"]
    packed = gzip.compress(b"".join(row(f"text number {n}", id=name) for n, name in enumerate(names)))
    named = packed[:3] + b"\x08" + packed[4:10] + b"../../archive\0" + packed[10:]  # flag 8: a file name follows
    (tmp_path / "in" / "a.jsonl.gz").write_bytes(named)
    before = {path for path in tmp_path.parent.rglob("*") if tmp_path not in path.parents}
    documents, *_ = ingest(tmp_path, Jsonl(path="*", label="../../label"))
    assert sorted(document["id"] for document in documents) == sorted(names)
    assert {path for path in tmp_path.parent.rglob("*") if tmp_path not in path.parents} == before
    assert {path.parts[len(tmp_path.parts)] for path in tmp_path.rglob("*")} == {"in", "data"}


def test_a_checkpoint_names_no_file_beside_its_own(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_file({"w": np.zeros(2, np.float32)}, tmp_path / "other.safetensors")
    for name in ("../other.safetensors", str(tmp_path / "other.safetensors"), ".."):
        index = {"weight_map": {"w": name}}
        (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match="weight_map: .* is no file of this folder"):
            read_weights(tmp_path / "model")


@pytest.mark.parametrize("folder", ["", "a\nb", "a\0b", "\x1b[2J"])
def test_what_dvc_makes_a_path_of_must_be_one(folder: str) -> None:
    params = compose(ROOT, "laptop", [])
    assert path_mistakes(ROOT, params) == []
    for section in ("ingest", "references", "checkpoint", "problems", "conversations"):
        [line] = path_mistakes(ROOT, {**params, section: {**params[section], "folder": folder}})
        assert line == f"params.yaml: {section}.folder: {folder!r} is no path, and dvc.yaml makes one of it"


@pytest.mark.parametrize("name", ["../..", "/etc/passwd", "data/ingest", "--all", "a\nb", "a\0b", ""])
def test_stages_and_presets_are_names_of_a_list(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TARGETS: no stage"):
        check_targets(ROOT, compose(ROOT, "laptop", []), [name])
    with pytest.raises(ConfigError, match="PRESET: no preset"):
        compose(ROOT, name, [])


@pytest.mark.parametrize(
    "command",
    [
        ["tasks.runner", "evaluate", "../../rl"],
        ["tasks.report.browse", "../../../etc"],
        ["tasks.ledger", "--run", "../../../etc", "--document", "x"],
        ["lm.chat", "../../../etc"],
        ["flows.cli.export", "../../../etc", "exported"],
    ],
    ids=lambda command: command[0],
)
def test_a_folder_that_is_none_of_ours_is_one_line(command: list[str], tmp_path: Path) -> None:
    project = make_project(tmp_path, TINY)
    surroundings = {**os.environ, "TOKENMILL_TRACKING": "off", "PYTHONPATH": str(ROOT)}
    done = run_forked(command[0], command[1:], project, surroundings)
    assert done.returncode != 0
    [line] = done.stderr.strip().splitlines()
    assert "rl" in line or "etc" in line


def test_a_method_is_no_file_name(tmp_path: Path) -> None:
    """dvc.yaml makes a path of it; the stage itself takes a name of its list alone."""
    params = {**TINY, "dedup": {**TINY["dedup"], "near": {"name": "../../../../etc/passwd"}}}
    process = start_stage(make_project(tmp_path, params), "dedup")
    printed, _ = process.communicate()
    assert process.returncode == 2 and "params.yaml: dedup.near.name: no method '../../../../etc/passwd'" in printed

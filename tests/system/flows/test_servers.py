"""The children of `make ui`: they end with it, and what is in their way is said in words."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flows.servers import prefect_and_mlflow as servers
from flows.servers.prefect_and_mlflow import HOST, ServerError, child, port_of
from flows.servers.prefect_pages import adapt_page
from flows.settings import MLFLOW_PORT, PREFECT_PORT
from flows.ui import __main__ as ui
from tests.processes import wait_for
from tests.project import ROOT

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(1e6)"
PARENT = """
import os, sys, time
from pathlib import Path
from flows.servers.prefect_and_mlflow import child
log = Path(sys.argv[1])
code = "import time; print('ready', flush=True); time.sleep(1e6)"
with child("test", [sys.executable, "-c", code], dict(os.environ), log) as started:
    started.wait_until(lambda: "ready" in log.read_text())  # tied to us by now
    print(started.process.pid, flush=True)
    time.sleep(1e6)
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet waited for does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_taken_port_is_named_with_the_variable_that_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("TOKENMILL_PREFECT_PORT", str(port))
        with pytest.raises(ServerError, match=rf"port {port} .*TOKENMILL_PREFECT_PORT"):
            port_of(PREFECT_PORT)


@pytest.mark.parametrize("text", ["http", "-1", "70000"])
def test_what_is_no_port_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TOKENMILL_MLFLOW_PORT", text)
    with pytest.raises(ServerError, match="TOKENMILL_MLFLOW_PORT: must be a port"):
        port_of(MLFLOW_PORT)


def test_port_0_is_a_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_MLFLOW_PORT", "0")
    assert port_of(MLFLOW_PORT) > 0


def test_a_child_ends_with_its_block() -> None:
    with child("test", [sys.executable, "-c", "import time; time.sleep(1e6)"], dict(os.environ)) as started:
        assert alive(started.process.pid)
    assert started.process.returncode == -signal.SIGTERM


def test_a_child_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(servers, "STOP_SECONDS", 0.2)
    log = tmp_path / "log"
    with child("test", [sys.executable, "-c", DEAF], dict(os.environ), log) as started:
        started.wait_until(lambda: "ready" in log.read_text())
    assert started.process.returncode == -signal.SIGKILL


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv: children cannot be tied to their parent")
def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "log")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(pid))


def test_a_child_that_ends_while_starting_is_reported_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no disk')"]
    with (
        child("test", command, dict(os.environ), tmp_path / "test.log") as started,
        pytest.raises(ServerError, match=r"the test ended with exit code 1; .*test.log:\nno disk"),
    ):
        started.wait_until(lambda: False)


def test_a_second_make_ui_in_a_checkout_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ui, "HOME", tmp_path)
    with (
        ui.single_instance_lock(),
        pytest.raises(ServerError, match=f"already running .* process {os.getpid()}"),
        ui.single_instance_lock(),
    ):
        pass
    with ui.single_instance_lock():
        pass


def test_a_page_is_adapted_once() -> None:
    page = adapt_page("<html><head><title>x</title></head></html>", HOST)
    assert page.startswith('<html><head><meta http-equiv="Content-Security-Policy"')
    assert adapt_page(page, HOST) == page

"""PostgreSQL under Prefect and MLflow, as a team would have it: a real server of Debian's, a real flow, a real run."""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from flows.environment import environment
from tests.flows.team import prefect_server
from tests.ports import free_port
from tests.processes import wait_for
from tests.project import ROOT

FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
BINARIES = FOUND[-1].parent if FOUND else Path(shutil.which("initdb") or "/nowhere").parent
pytestmark = pytest.mark.skipif(
    not (BINARIES / "initdb").exists(), reason="no PostgreSQL: apt-get install postgresql (initdb was not found)"
)

FLOW = """
from prefect import flow, task
@task
def double(n): return 2 * n
@flow
def tiny(): return double.submit(21).result()
print("made", tiny())
"""
TRACKED = """
from tasks.runner.tracking import finish_parent, start_parent
run = start_parent({"preset": "none"}, {"seed": 0})
finish_parent(run, "FINISHED")
print("run", run)
"""


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """user@host:port of a server on 127.0.0.1 with its data in a temporary folder; it refuses to run as root."""
    data = tmp_path_factory.mktemp("postgres") / "data"
    data.mkdir()
    become: list[str] = []
    if os.geteuid() == 0:
        user = next(
            (name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()}), ""
        )
        become = ["setpriv", f"--reuid={user}", "--regid=65534", "--clear-groups"]
        os.chown(data, pwd.getpwnam(user).pw_uid, 65534)
        for folder in data.parents:  # pytest's folders are for their owner alone
            if folder.is_relative_to(Path("/tmp")) and folder != Path("/tmp"):
                folder.chmod(folder.stat().st_mode | 0o055)
    subprocess.run(
        [*become, str(BINARIES / "initdb"), "-D", str(data), "-U", "team", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True,
        capture_output=True,
        cwd="/",
    )
    port = free_port()
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={data}", "-c", "fsync=off"]
    log = data.parent / "log"
    with log.open("w") as said:
        server = subprocess.Popen(
            [*become, str(BINARIES / "postgres"), "-D", str(data), "-p", str(port), *options],
            stdout=said,
            stderr=said,
            cwd="/",
        )
    try:
        ready = [str(BINARIES / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-t", "1"]
        wait_for(lambda: subprocess.run(ready, capture_output=True).returncode == 0, server, explain=log.read_text)
        for name in ("prefect", "mlflow"):
            create = [str(BINARIES / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "team", name]
            subprocess.run(create, check=True)
        yield f"team@127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def query(postgres: str, database: str, text: str) -> str:
    """What psql answers."""
    url = f"postgresql://{postgres}/{database}"
    command = [str(BINARIES / "psql"), url, "-Atc", text]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_prefect_keeps_its_runs_there(postgres: str, tmp_path: Path) -> None:
    url = f"postgresql+asyncpg://{postgres}/prefect"
    with prefect_server(tmp_path, PREFECT_SERVER_DATABASE_CONNECTION_URL=url) as api:
        variables = environment(tmp_path) | {"PREFECT_API_URL": api, "PREFECT_HOME": str(tmp_path / "client")}
        command = [sys.executable, "-c", FLOW]
        done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.strip().endswith("made 42")
    assert query(postgres, "prefect", "select state_type from flow_run") == "COMPLETED"
    assert not list(tmp_path.rglob("prefect.db"))


@pytest.mark.skipif(find_spec("pg8000") is None, reason="pg8000, by which MLflow would connect, is not installed")
def test_mlflow_keeps_its_runs_there(postgres: str, tmp_path: Path) -> None:
    uri = f"postgresql+pg8000://{postgres}/mlflow"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    variables = environment(tmp_path) | {"MLFLOW_TRACKING_URI": uri, "TOKENMILL_TRACKING": "on", "PYTHONPATH": path}
    command = [sys.executable, "-c", TRACKED]
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=True)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("run ")]
    assert line != "run None", done.stderr
    assert query(postgres, "mlflow", "select status, run_uuid from runs") == f"FINISHED|{line.split()[1]}"

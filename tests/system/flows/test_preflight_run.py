"""What preflight says where a run would begin: of a pipeline in which all is wrong, and of a server that wants a password."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows.environment import environment
from flows.preflight import services
from flows.preflight.services import check_prefect
from flows.servers import prefect_and_mlflow
from flows.servers.answers import get
from tests.flows.preflight_project import configure, make_project, named
from tests.ports import free_port
from tests.processes import PATIENCE


def test_make_pipeline_says_all_and_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment, the remote, the parameters' edges and the toy run find comes in one answer, with exit code 2."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    project = make_project(tmp_path / "project")
    monkeypatch.chdir(project)
    configure(project, "[core]\n    remote = r\n    no_scm = True\n")
    overrides = ["distill.student.layers=6", "dedup.against={name: against, folder: data/references}"]
    command = [sys.executable, "-m", "flows.pipeline", "--targets", "filter", "--set", *overrides]
    variables = {**environment(project), "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}
    variables.pop("TOKENMILL_TRACKING", None)
    done = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    for words in ("MLFLOW_TRACKING_URI", "core.remote r", "distill.student.layers: 6", "dedup (toy run)"):
        assert sum(words in line for line in done.stderr.splitlines()) == 1, done.stderr
    assert not (project / "data/ingest").exists() and not (project / "dvc.lock").exists()
    assert not list((project / ".scratch/preflight").glob("*.json"))


def test_a_prefect_server_that_wants_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "SECONDS", PATIENCE)
    port = free_port()
    command = [sys.executable, "-P", "-m", "prefect", "server", "start", "--no-ui", "--port", str(port)]
    variables = {**environment(tmp_path), "PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_API_AUTH_STRING": "mill:right"}
    variables.pop("PREFECT_API_URL", None)
    with prefect_and_mlflow.child("Prefect server", command, variables) as server:
        server.wait_until(lambda: get(f"http://127.0.0.1:{port}/api/health") is not None)
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "mill:right")
        assert list(check_prefect()) == []
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "mill:wrong")
        assert named(list(check_prefect()), "refuses these credentials", "PREFECT_API_AUTH_STRING")

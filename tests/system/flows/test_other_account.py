"""What another account of this machine can have of servers, locks and files that are ours: nothing."""

import subprocess
import sys
from pathlib import Path

import psutil
import yaml

from flows.environment import environment
from tests.flows.served import make_ui, with_tiny_preset
from tests.other_account import can_other_account_read, needs_root, status_for_other
from tests.processes import PATIENCE, command_of, wait_for

pytestmark = needs_root


def test_a_form_that_nobody_gave_a_password_answers_its_owner_alone(tmp_path: Path) -> None:
    """A run that reads a file of mode 0600 by its path is neither made nor seen by another account."""
    project = with_tiny_preset(tmp_path / "project")
    (tmp_path / "secret").mkdir(mode=0o700)
    (tmp_path / "secret" / "a.txt").write_text("a secret\n")
    with make_ui(project) as served:
        deployment = served.ask(f"{served.prefect}/api/deployments/name/pipeline/tokenmill")["id"]
        assert status_for_other(f"{served.prefect}/api/csrf-token?client=other") == 401  # without it nothing is taken
        assert status_for_other(f"{served.prefect}/api/deployments/{deployment}") == 401
        start = f"{served.prefect}/api/deployments/{deployment}/create_flow_run"
        overrides = [f"ingest.folder={tmp_path / 'secret'}", "ingest.sources=[{name: text_folder, path: .}]"]
        assert status_for_other(start, {"parameters": {"overrides": overrides}}) in (401, 403)
        assert status_for_other(f"{served.mlflow}/api/2.0/mlflow/experiments/search?max_results=1") == 401
        assert status_for_other(served.report + "/") == 401
        assert served.runs() == []
        home = project / ".scratch" / "prefect-server"
        assert (home / "prefect.log").exists() and not can_other_account_read(home / "prefect.log")


PIPELINE = """
import os, sys
from flows.servers.temporary import temporary_server
os.environ["TOKENMILL_ROOT"] = os.getcwd()
os.makedirs(".scratch", exist_ok=True)
os.environ.update(temporary_server().wait())
import flows.pipeline.flow as p
p.check = p.preflight = lambda *_: None
p.finish = lambda *given: None
print("ran", p.pipeline(preset="current"))
"""


def test_the_server_of_one_run_answers_that_run_alone(tmp_path: Path) -> None:
    project = with_tiny_preset(tmp_path / "project")
    stop = "touch begun; while [ ! -e go ]; do sleep 0.1; done; mkdir -p data/a; echo > data/a/x"
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"a": {"cmd": stop, "outs": ["data/a"]}}}))
    (project / "dvc.lock").unlink()
    surroundings = environment(project) | {"TOKENMILL_TRACKING": "off", "PYTHONPATH": str(project)}
    surroundings.pop("PREFECT_API_URL", None)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PIPELINE], cwd=project, env=surroundings, stdout=log, stderr=log
        )
    try:
        wait_for((project / "begun").exists, process, explain=(tmp_path / "log").read_text)
        family = [p for p in psutil.Process(process.pid).children(recursive=True) if "uvicorn" in command_of(p)]
        ports = {c.laddr.port for child in family for c in child.net_connections("tcp") if c.status == "LISTEN"}
        assert ports, "no temporary server was found"
        for port in ports:
            assert status_for_other(f"http://127.0.0.1:{port}/api/health") == 200
            assert status_for_other(f"http://127.0.0.1:{port}/api/flow_runs/filter", {}) == 401
    finally:
        (project / "go").touch()
        code = process.wait(PATIENCE)
    assert code == 0 and (project / "data" / "a" / "x").exists(), (tmp_path / "log").read_text()

"""`make ui` for tests: started on free ports in a copy of the project, talked to as a page would, and stopped by Ctrl-C."""

import copy
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import yaml

from flows.servers.password import header
from flows.workspaces.smoke import copy_project
from tests.ports import free_port
from tests.processes import PATIENCE, wait_for
from tests.project import ROOT, TINY

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class Served:
    """A running `make ui`: its pages, what it printed, and the password that it asks for, None where it asks for none."""

    prefect: str
    mlflow: str
    report: str
    log: Path
    process: subprocess.Popen
    password: str | None = None

    def ask(self, url: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of a GET, or of a POST of this body with the token that Prefect's pages would send."""
        headers = header(self.password)
        if body is not None:
            headers["content-type"] = "application/json"
            if url.startswith(self.prefect):
                token = self.ask(f"{self.prefect}/api/csrf-token?client=tests")["token"]
                headers |= {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "tests"}
        data = None if body is None else json.dumps(body).encode()

        def answered() -> list[Any]:
            try:
                with urlopen(Request(url, data, headers), timeout=PATIENCE) as response:
                    return [json.load(response)]
            except HTTPError as error:
                if error.code == 503:  # Prefect's store is locked: nothing was done, and it is to be asked again
                    return []
                raise AssertionError(f"{url}: {error.code} {error.read().decode()[:1000]}") from error

        return wait_for(answered)[0]

    def runs(self) -> list[dict[str, Any]]:
        """The flow runs, the newest first."""
        return self.ask(f"{self.prefect}/api/flow_runs/filter", {"sort": "START_TIME_DESC"})

    def start(self, **parameters: Any) -> str:
        """The id of a new run of the deployment, without the browser."""
        deployment = self.ask(f"{self.prefect}/api/deployments/name/pipeline/tokenmill")
        url = f"{self.prefect}/api/deployments/{deployment['id']}/create_flow_run"
        return self.ask(url, {"parameters": parameters})["id"]

    def run(self, number: str) -> dict[str, Any]:
        return self.ask(f"{self.prefect}/api/flow_runs/{number}")

    def until(self, number: str, *types: str) -> dict[str, Any]:
        """The run once it is in a state of one of these types."""

        def reached() -> dict[str, Any] | None:
            run = self.run(number)
            assert run["state_type"] in types or run["state_type"] not in ENDED, f"{run}\n{self.said()}"
            return run if run["state_type"] in types else None

        return wait_for(reached, explain=self.said, every=0.5)

    def said(self) -> str:
        """The last that it printed."""
        return self.log.read_text()[-5000:]

    def artifacts(self, number: str) -> dict[str, dict[str, Any]]:
        """The artifacts of a run by their keys."""
        body = {"flow_runs": {"id": {"any_": [number]}}}
        return {found["key"]: found for found in self.ask(f"{self.prefect}/api/artifacts/filter", body)}


def with_tiny_preset(folder: Path) -> Path:
    """A copy of the project with a preset of the smallest models, of which pretraining takes the seconds that a progress bar
    needs."""
    copy_project(ROOT, folder)
    tiny = copy.deepcopy(TINY)
    tiny["curriculum"]["tokens"] = 60_000
    (folder / "presets" / "tiny.yaml").write_text(yaml.safe_dump(tiny, sort_keys=False))
    return folder


@contextmanager
def make_ui(project: Path, password: str | None = None, **variables: str) -> Iterator[Served]:
    """`make ui` in a copy of the project, with the password that it makes itself, this one, or none for ""; Ctrl-C at the end."""
    log = project.parent / "ui.log"
    surroundings = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "TOKENMILL_"))}
    ports = {f"TOKENMILL_{name}_PORT": str(free_port()) for name in ("PREFECT", "MLFLOW", "REPORT")}
    surroundings |= {**ports, "PYTHONPATH": os.pathsep.join([str(project), *EXTRA]), **variables}
    if password is not None:
        surroundings["TOKENMILL_PASSWORD"] = password
    with log.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.ui"],
            cwd=project,
            env=surroundings,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        pattern = r"Prefect +(http\S+)[\s\S]*MLflow +(http\S+)[\s\S]*report +(http\S+)[\s\S]*Ctrl-C"
        ready = wait_for(lambda: re.search(pattern, log.read_text()), process, explain=log.read_text, every=0.1)
        if password is None:
            [password] = re.findall(r"log in +admin:(\S+)", log.read_text())
        yield Served(ready[1], ready[2], ready[3], log, process, password or None)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0, log.read_text()[-5000:]
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE)


# What the tests themselves were given beside the installed libraries.
EXTRA = [
    part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and not (Path(part) / "flows").exists()
]

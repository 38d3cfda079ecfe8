"""A small team for tests: a project with a git remote and a DVC remote, clones of it, agents, and a Prefect server."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import yaml

from flows.environment import environment
from flows.servers.answers import get
from flows.servers.prefect_and_mlflow import HOST, child
from flows.workspaces.smoke import copy_project
from tests.ports import free_port
from tests.processes import PATIENCE, wait_for
from tests.project import DATA_STAGES, ROOT, TINY, write_params

# Seconds: agents give a sign of life every HEARTBEAT; whoever gives none for three of them is offline to the server, and is lost to
# a run that has seen it alive after its deadline. LONG is no deadline: a test that is not of a lost agent loses none on a busy machine.
HEARTBEAT, DEADLINE, LONG = 5, 45, 3600
# Waits until the file named GO is there, and says in MARK who runs it; so a test chooses when it ends.
SLOW = {
    "cmd": 'echo "$TOKENMILL_AGENT $$" >> $MARK; while [ ! -e $GO ]; do sleep 0.1; done; mkdir -p data/slow data/timings;'
    " ls data/raw > data/slow/x; echo > data/timings/slow.json",
    "deps": ["data/raw"],
    "outs": ["data/slow"],
    "meta": {"pool": "gpu"},
}
REAL = DATA_STAGES[:4]
SENT = ("dedup", "tokenize")
# The flow without preflight and the checks of sections, which this graph does not have, and without a report.
PIPELINE = """
import os, sys
os.environ["TOKENMILL_ROOT"] = os.getcwd()
import flows.pipeline.flow as p
p.check = p.preflight = lambda *_: None
p.finish = lambda *given: None
try:
    print("ran", sorted(p.pipeline(preset="current", targets=sys.argv[1:], force="FORCE" in os.environ)))
except RuntimeError as error:
    print("failed", error); sys.exit(1)
"""


@dataclass
class Team:
    """Folders of a project and its clones, and the environment of all processes."""

    folder: Path
    variables: dict[str, str]
    agents: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def mark(self) -> list[list[str]]:
        """[agent, process] of each beginning of the slow stage."""
        path = Path(self.variables["MARK"])
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def go(self) -> None:
        """Let the slow stage end."""
        Path(self.variables["GO"]).touch()

    def again(self) -> None:
        """Have the slow stage wait when it is begun next."""
        for name in ("GO", "MARK"):
            Path(self.variables[name]).unlink(missing_ok=True)

    def clone(self, name: str) -> Path:
        """A clone with a DVC cache of its own."""
        target = self.folder / name
        git(self.folder, "clone", "-q", str(self.folder / "origin.git"), str(target))
        use_remote(target, str(self.folder / "remote"))
        return target

    def environment(self, folder: Path, **more: str) -> dict[str, str]:
        """Of a process in this clone."""
        home = {"PREFECT_HOME": str(self.folder / f"{folder.name}-prefect"), "PYTHONPATH": str(folder)}
        return environment(folder) | home | self.variables | more

    def pipeline(self, folder: Path, *targets: str, **more: str) -> subprocess.Popen[bytes]:
        """The flow, started in a clone with agents in use; what it prints is in the log of the clone's name."""
        with (self.folder / f"{folder.name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-c", PIPELINE, *targets],
                cwd=folder,
                env=self.environment(folder, TOKENMILL_POOLS="gpu", **more),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, folder: Path, *targets: str, **more: str) -> tuple[int, str]:
        """The flow to its end: exit code and what it printed."""
        return self.end_of(self.pipeline(folder, *targets, **more), folder)

    def end_of(self, process: subprocess.Popen[bytes], folder: Path) -> tuple[int, str]:
        """As of run, for a flow that was started in this clone."""
        return process.wait(PATIENCE), (self.folder / f"{folder.name}.log").read_text()

    def start(self, *names: str) -> None:
        """Agents, each in its clone, until the server knows them alive."""
        for name in names:
            clone = self.folder / name if (self.folder / name).exists() else self.clone(name)
            command = [sys.executable, "-m", "flows.agents", "gpu"]
            more = {"TOKENMILL_AGENT": name, "PREFECT_WORKER_HEARTBEAT_SECONDS": str(HEARTBEAT)}
            with (self.folder / f"{name}.log").open("wb") as log:
                self.agents[name] = subprocess.Popen(
                    command,
                    cwd=clone,
                    env=self.environment(clone, **more),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        wait_for(lambda: set(names) <= self.online(), explain=self.logs, every=0.1)

    def online(self) -> set[str]:
        """The agents that the server calls alive."""
        workers = post(f"{self.variables['PREFECT_API_URL']}/work_pools/gpu/workers/filter", {})
        return {worker["name"] for worker in workers if worker["status"] == "ONLINE"}

    def kill(self, name: str) -> None:
        """End an agent's whole process group at once, as a power cut would."""
        process = self.agents.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def logs(self) -> str:
        """The end of everything that was printed by agents, flows and the server."""
        return "\n".join(f"--- {path.name}\n{path.read_text()[-4000:]}" for path in sorted(self.folder.glob("*.log")))


@contextmanager
def prefect_server(folder: Path, **more: str) -> Iterator[str]:
    """The URL of a server with a database of its own, as `make ui` starts one."""
    url = f"http://{HOST}:{(port := free_port())}/api"
    variables = environment(folder) | {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": url} | more
    command = [sys.executable, "-P", "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port), "--no-ui"]
    with child("Prefect server", command, variables, folder / "server.log") as started:
        started.wait_until(lambda: get(f"{url}/health") is not None)
        yield url


@contextmanager
def team(folder: Path, url: str) -> Iterator[Team]:
    """A project of four real stages and a slow one, pushed; everything that was started is ended afterwards."""
    variables = {
        "PREFECT_API_URL": url,
        "TOKENMILL_TRACKING": "off",
        "TOKENMILL_THREADS": "1",
        "TOKENMILL_AGENT_DEADLINE": str(LONG),
        "TOKENMILL_STOP_SECONDS": str(PATIENCE),
        "MARK": str(folder / "mark"),
        "GO": str(folder / "go"),
    }
    made = Team(folder, variables)
    origin = copy_project(ROOT, folder / "origin")
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    graph: dict[str, Any] = {name: stages[name] | ({"meta": {"pool": "gpu"}} if name in SENT else {}) for name in REAL}
    (origin / "dvc.yaml").write_text(yaml.safe_dump({"stages": graph | {"slow": SLOW}}, sort_keys=False, width=1000))
    write_params(origin, TINY)
    (origin / "dvc.lock").unlink()
    with (origin / ".gitignore").open("a") as ignored:
        ignored.write("/data/slow\n")
    commit(origin, "a small graph")
    git(folder, "clone", "-q", "--bare", str(origin), str(folder / "origin.git"))
    try:
        yield made
    finally:
        for name in list(made.agents):
            made.kill(name)
        end_processes_in(folder)


def use_remote(project: Path, url: str) -> None:
    """Name a DVC remote for this clone alone, as `dvc remote add --local --default` does."""
    (project / ".dvc" / "config.local").write_text(
        f"[core]\n    remote = store\n['remote \"store\"']\n    url = {url}\n"
    )


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", message)


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def post(url: str, body: dict[str, Any]) -> Any:
    """The JSON that a POST returns; an empty list where there is nothing of the kind."""
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=PATIENCE) as reply:
            return json.load(reply)
    except OSError:
        return []


def processes_in(folder: Path) -> list[psutil.Process]:
    """The processes that work in a folder or below."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(folder):
                found.append(process)
    return found


def end_processes_in(folder: Path) -> None:
    for process in processes_in(folder):
        with suppress(psutil.Error):
            process.kill()

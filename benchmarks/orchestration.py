"""What our flow adds to plain `dvc repro` of the same graph, how long it takes to decide, and what one call of log() costs."""

import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing as closing_connection
from pathlib import Path

from dvc.repo import Repo

from benchmarks.contest import Contest, Metric
from benchmarks.subprocess_arm import ROOT, subprocess_arm
from benchmarks.synthetic import arm, repository, run
from flows.environment import environment
from flows.servers.answers import get
from flows.servers.prefect_and_mlflow import HOST, child, free_port
from flows.staleness.plan import make_plan, may_run
from tasks.runner.graph import Entry
from tasks.runner.stage import StageLog
from tasks.runner.tracker import Tracker

STAGES = 10
FILES = 200_000
PACKAGES = ("prefect", "dvc")
SECONDS = Metric("time", "s")
DECISION = (Metric("decision", "s"),)
LOGGING = Metric("call", "us"), Metric("call_p99", "us"), Metric("closing", "s")
DECIDE = ((f"make_plan, {FILES} files", "decision"), (f"dvc status, {FILES} files", "status"))
OURS = [sys.executable, "-m", "flows.pipeline"]
# the module that OURS starts: benchmarks/standing.py reads it
RUNS = ("flows.pipeline.__main__",)
PEER = [sys.executable, "-m", "dvc", "repro"]


def contests(threads: int) -> Iterator[Contest]:
    """Logging; the decision over many files; then cold with a server that runs already, cold with a temporary one, and with
    nothing to do."""
    calls = subprocess_arm("log() of 3 values", "benchmarks.orchestration:logging", steps=3000)
    yield Contest(calls, LOGGING, packages=("mlflow",))
    with tempfile.TemporaryDirectory(prefix="decision-") as name:
        many = str(with_files(Path(name) / "project", FILES))
        mine, theirs = (subprocess_arm(name, f"benchmarks.orchestration:{call}", folder=many) for name, call in DECIDE)
        yield Contest(mine, DECISION, (theirs,), packages=("dvc",))
    with tempfile.TemporaryDirectory(prefix="orchestration-") as name:
        ours, peer = (repository(Path(name) / side, STAGES) for side in ("ours", "peer"))
        port = free_port()
        quiet = environment(Path(name))
        alone = {**quiet, "PREFECT_HOME": str(Path(name) / "alone"), "PREFECT_API_URL": ""}
        served = {**quiet, "PREFECT_HOME": str(Path(name) / "home"), "PREFECT_API_URL": f"http://{HOST}:{port}/api"}
        command = [sys.executable, "-P", "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
        log = ROOT / ".scratch" / "benchmarks" / "prefect.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with child("Prefect server", command, served, log) as server:
            server.wait_until(lambda: get(f"http://{HOST}:{port}/api/health") is not None)
            yield _contest(f"cold {STAGES} stages, running server", ours, peer, True, served)
        yield _contest(f"cold {STAGES} stages", ours, peer, True, alone)
        yield _contest(f"no-op {STAGES} stages", ours, peer, False, alone)


def _contest(name: str, ours: Path, peer: Path, cold: bool, environment: dict[str, str]) -> Contest:
    ours_arm = arm(f"flow, {name}", ours, OURS, cold, environment)
    peer_arm = arm(f"dvc repro, {name}", peer, PEER, cold, environment)
    return Contest(ours_arm, (SECONDS,), (peer_arm,), packages=PACKAGES, added=True)


def logging(steps: int) -> tuple[dict[str, float], None]:
    """What a training loop waits for in log(), in a stage whose steps take 2 ms, and at its end."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    waits = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        tracker = Tracker(Entry("bench", "true", [], ["seed"], ["data/bench"]), "0", {}, {"seed": 0})
        log = StageLog("bench", Path("scratch"), tracker)
        for step in range(steps):
            time.sleep(0.002)
            began = time.perf_counter()
            log(step, loss=1 / (step + 1), learning_rate=0.1, gradient_norm=1.0)
            waits.append(time.perf_counter() - began)
        began = time.perf_counter()
        tracker.close("FINISHED", {}, {})
        closing = time.perf_counter() - began
        with closing_connection(sqlite3.connect("mlflow/store/mlflow.db")) as store:
            (recorded,) = store.execute("select count(*) from metrics where key not like 'run.%'").fetchone()
        os.chdir("/")
    if recorded != 3 * steps:
        raise RuntimeError(f"{recorded} of {3 * steps} points arrived in the store; not the whole work was timed")
    p99 = sorted(waits)[int(steps * 0.99)]
    return {"call": sum(waits) / steps * 1e6, "call_p99": p99 * 1e6, "closing": closing}, None


def decision(folder: str) -> tuple[dict[str, float], list[str]]:
    """Seconds in which the plan of a run is made where nothing changed, and the stages that it would run."""
    os.environ |= environment(Path(folder))
    os.chdir(folder)
    began = time.perf_counter()
    stale = [stage.address for stage in may_run(make_plan(Path(folder), []))]
    return {"decision": time.perf_counter() - began}, stale


def status(folder: str) -> tuple[dict[str, float], list[str]]:
    """Seconds in which DVC's own status is made, and the stages that it names."""
    os.environ |= environment(Path(folder))
    os.chdir(folder)
    began = time.perf_counter()
    with Repo(folder) as repo:
        stale = list(repo.status())
    return {"decision": time.perf_counter() - began}, stale


def with_files(folder: Path, files: int) -> Path:
    """A repository of one stage that depends on so many small files, has run, and was found up to date."""
    repository(folder, 1)
    for shard in range(files // 1000):
        below = folder / "data" / "raw" / f"{shard:04}"
        below.mkdir()
        for i in range(1000):
            (below / str(i)).write_text(f"{shard} {i}\n")
    graph = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(
        graph.replace("cp -r data/raw data/s0", "mkdir -p data/s0 && ls data/raw > data/s0/x")
    )
    run(folder, *PEER, "--quiet", environment=environment(folder))
    for _ in range(2):  # the first plan takes as long as DVC, and what is younger than a moment is not remembered
        run(folder, *OURS, environment=environment(folder))
    return folder

"""Agents: real workers in clones of their own serve a real pipeline; one lock, whoever ran what and whoever was killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prefect.workers.process import ProcessWorker

from flows.agents.prefect_worker import TEMPLATE
from tasks.runner.lock import read_lock
from tests.flows.served import ENDED
from tests.flows.team import (
    DEADLINE,
    REAL,
    SENT,
    Team,
    commit,
    git,
    prefect_server,
    processes_in,
    team,
    use_remote,
)
from tests.processes import PATIENCE, command_of, files_in, has_ended, wait_for
from tests.project import digest


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A coordinator's clone and two agents that serve it."""
    folder = tmp_path_factory.mktemp("team")
    with prefect_server(folder) as url, team(folder, url) as made:
        made.clone("coordinator")
        made.start("agent-a", "agent-b")
        yield made


def by_dvc(crew: Team, name: str, *targets: str) -> Path:
    """A clone where plain `dvc repro` made these."""
    folder = crew.clone(name)
    command = [sys.executable, "-m", "dvc", "repro", "-q", *targets]
    subprocess.run(command, cwd=folder, env=crew.environment(folder), check=True)
    return folder


def test_one_lock_from_dvc_and_from_two_agents(crew: Team) -> None:
    coordinator, plain = crew.folder / "coordinator", by_dvc(crew, "plain", "tokenize")
    code, printed = crew.run(coordinator, "tokenize")
    assert code == 0, printed + crew.logs()
    assert "ran ['dedup', 'filter', 'ingest', 'tokenize']" in printed
    assert read_lock(coordinator / "dvc.lock") == read_lock(plain / "dvc.lock")
    for stage in REAL:
        assert digest(coordinator / "data" / stage) == digest(plain / "data" / stage)
        metrics = Path("data") / "metrics" / f"{stage}.json"
        assert (coordinator / metrics).read_bytes() == (plain / metrics).read_bytes()
    # the agents made what was sent, and nothing else
    files = [path for name in crew.agents for path in files_in(crew.folder / name)]
    assert {path.name.split(".")[0] for path in files if path.match("data/timings/*.json")} == set(SENT)
    code, printed = crew.run(coordinator, "tokenize")
    assert code == 0 and "ran []" in printed, printed


def answer(server: httpx.Client, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> httpx.Response:
    """What a request is answered, asked again where the server says that its database is busy, as Prefect's clients do."""

    def answered() -> httpx.Response | None:
        found = server.request(method, path, json=body)
        return found if found.status_code != 503 else None

    return wait_for(answered, every=0.2)


@pytest.mark.parametrize("flow", ["stage", "other"])
def test_an_agent_runs_nothing_that_the_server_names(crew: Team, tmp_path: Path, flow: str) -> None:
    """Commands come to Prefect's own worker as job variables and as steps of a deployment; the pool's template may be changed
    by whoever writes to the server."""
    with httpx.Client(base_url=crew.variables["PREFECT_API_URL"], timeout=PATIENCE) as server:
        pool = answer(server, "/work_pools/gpu", method="GET").json()
        assert pool["base_job_template"] == TEMPLATE and not TEMPLATE["variables"]["properties"]
        mark = tmp_path / "mark"
        steps = [{"prefect.deployments.steps.run_shell_script": {"script": f"touch {mark}"}}]
        number = answer(server, "/flows/", {"name": flow}).json()["id"]
        made = {
            "name": f"hostile-{flow}",
            "flow_id": number,
            "work_pool_name": "gpu",
            "entrypoint": "os.path",
            "pull_steps": steps,
        }
        deployment = answer(server, "/deployments/", made).json()["id"]
        command = {"job_variables": {"command": f"touch {mark}"}}
        assert answer(server, f"/deployments/{deployment}/create_flow_run", command).status_code == 422
        stock = ProcessWorker.get_default_base_job_template()
        answer(server, "/work_pools/gpu", {"base_job_template": stock}, "PATCH").raise_for_status()
        try:
            run = answer(server, f"/deployments/{deployment}/create_flow_run", command).json()["id"]
            place = f"/flow_runs/{run}"
            wait_for(
                lambda: answer(server, place, method="GET").json()["state_type"] in ENDED, explain=crew.logs, every=0.1
            )
        finally:
            answer(server, "/work_pools/gpu", {"base_job_template": TEMPLATE}, "PATCH").raise_for_status()
        state = answer(server, place, method="GET").json()["state"]
    assert not mark.exists()
    assert state["type"] in ("FAILED", "CRASHED"), state  # there is no order in it
    assert flow == "stage" or "runs the flow stage alone, not other" in state["message"]


def test_a_lost_output_comes_back_from_what_was_made(crew: Team) -> None:
    """The coordinator's run cache knows the stage as if it had run there, so no agent is asked again."""
    coordinator = crew.folder / "coordinator"
    before = read_lock(coordinator / "dvc.lock")
    params = (coordinator / "params.yaml").read_text()
    (coordinator / "params.yaml").write_text(params.replace("held_out_fraction: 0.1", "held_out_fraction: 0.2"))
    assert crew.run(coordinator, "tokenize")[0] == 0
    assert read_lock(coordinator / "dvc.lock") != before
    (coordinator / "params.yaml").write_text(params)
    command = [sys.executable, "-m", "dvc", "repro", "tokenize"]
    done = subprocess.run(
        command, cwd=coordinator, env=crew.environment(coordinator), check=True, capture_output=True, text=True
    )
    assert "Stage 'tokenize' is cached - skipping run" in done.stdout and "Running" not in done.stdout
    assert read_lock(coordinator / "dvc.lock") == before


def test_code_that_is_not_committed_or_pushed_is_one_line(crew: Team) -> None:
    clone = crew.clone("unpushed")
    changed = clone / "tasks" / "dedup" / "stage.py"
    changed.write_text(changed.read_text() + "\n# a comment\n")
    code, printed = crew.run(clone, "dedup")
    [line] = {line for line in printed.splitlines() if line.startswith("dedup: an agent runs committed code")}
    assert code == 1 and "tasks/dedup/stage.py is not as in" in line
    commit(clone, "not pushed")
    code, printed = crew.run(clone, "dedup")
    revision = git(clone, "rev-parse", "HEAD")[:12]
    assert code == 1 and f"revision {revision} is not in the git remote origin" in printed, printed
    git(clone, "push", "-q", "origin", "HEAD:refs/heads/pushed")
    code, printed = crew.run(clone, "dedup")
    assert code == 0, printed


def test_an_unreachable_remote_is_one_line(crew: Team) -> None:
    clone = crew.clone("remoteless")
    (crew.folder / "file").write_text("no folder\n")
    use_remote(clone, str(crew.folder / "file" / "below"))
    code, printed = crew.run(clone, "dedup")
    assert code == 1 and "DVC remote store (" in printed and "Traceback" not in printed, printed
    (clone / ".dvc" / "config.local").unlink()
    code, printed = crew.run(clone, "dedup")
    assert code == 1 and "has no DVC remote to exchange data by: `dvc remote add --default NAME URL`" in printed, (
        printed
    )


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "the coordinator dies"])
def test_cancelling_ends_the_stage_with_its_agent(crew: Team, end: signal.Signals) -> None:
    crew.again()
    coordinator = crew.folder / "coordinator"
    process = crew.pipeline(coordinator, "slow", FORCE="1")
    wait_for(lambda: crew.mark != [], explain=crew.logs)
    shell = psutil.Process(int(crew.mark[0][1]))
    os.kill(process.pid, end)
    wait_for(lambda: has_ended(shell), explain=crew.logs)
    process.wait(PATIENCE)
    lock = coordinator / "dvc.lock"
    assert not lock.exists() or "slow" not in read_lock(lock)
    wait_for(lambda: not any("repro" in command_of(other) for other in processes_in(crew.folder)), every=0.1)


def test_a_killed_agents_stage_ends_on_the_other(crew: Team) -> None:
    crew.again()
    coordinator = crew.folder / "coordinator"
    process = crew.pipeline(coordinator, "slow", FORCE="1", TOKENMILL_AGENT_DEADLINE=str(DEADLINE))
    wait_for(lambda: crew.mark != [], explain=crew.logs)
    first = crew.mark[0][0]
    crew.kill(first)
    wait_for(lambda: len(crew.mark) == 2, explain=crew.logs)
    [other] = crew.agents
    assert crew.mark[1][0] == other
    crew.go()
    code, printed = crew.end_of(process, coordinator)
    assert code == 0, printed
    assert f"agent {first}: no sign of life for" in printed and "ran ['slow']" in printed
    assert (
        read_lock(coordinator / "dvc.lock")["slow"]
        == read_lock(by_dvc(crew, "also-plain", "slow") / "dvc.lock")["slow"]
    )


def test_an_agent_that_comes_back_does_not_keep_its_sender_waiting(crew: Team) -> None:
    crew.again()
    missing = {"agent-a", "agent-b"} - set(crew.agents)
    crew.start(*missing)
    clone = crew.clone("patient")
    process = crew.pipeline(clone, "slow", FORCE="1")
    wait_for(lambda: crew.mark != [], explain=crew.logs)
    first = crew.mark[0][0]
    crew.kill(first)
    crew.start(first)
    wait_for(lambda: len(crew.mark) == 2, explain=crew.logs)
    assert crew.mark[1][0] != first
    crew.go()
    code, printed = crew.end_of(process, clone)
    assert code == 0, printed
    assert f"agent {first} lost the stage: agent {first} was killed and started again" in printed


def test_without_a_living_agent_the_stage_runs_here(crew: Team) -> None:
    crew.again()
    crew.go()
    for name in list(crew.agents):
        crew.kill(name)
    wait_for(lambda: not crew.online(), every=0.1)
    clone = crew.clone("alone")
    code, printed = crew.run(clone, "slow")
    assert code == 0 and "pool gpu: no agent is alive; this machine does it" in printed, printed
    assert (clone / "data" / "slow" / "x").read_text() == "README.md\n"

"""`make ui` started again, on a real server: what an earlier one left is marked as lost, and what others are at work on is not."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.environment import environment
from flows.pipeline.run_lock import one_run
from tests.flows.team import prefect_server
from tests.processes import PATIENCE
from tests.project import ROOT

# Prefect reads its settings when it is imported, so that what is asked of the server is a process of its own.
SCRIPT = """
import asyncio, json, sys
from pathlib import Path
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Paused, Running
import flows.ui.runner as runner
from flows.pipeline.flow import introduce, pipeline

runner.ROOT = Path(sys.argv[1])
runs = {}

@flow(name="stage")
def stage(): ...

def begun_in(root):
    @flow(name="pipeline")
    def run():
        introduce(Path(root), "named")
        from prefect.runtime import flow_run
        return flow_run.id
    return run()

async def make():
    async with get_client() as client:
        for which, name in ((pipeline, "tokenmill"), (pipeline, "default"), (stage, "gpu"), (stage, "tokenmill")):
            deployment = await client.create_deployment(await client.create_flow(which), name=name)
            run = await client.create_flow_run_from_deployment(deployment)
            runs[f"{which.name}/{name}"] = run.id
        runs["nobody's"] = (await client.create_flow_run(pipeline)).id
        paused = await client.create_flow_run_from_deployment(
            (await client.read_deployment_by_name("pipeline/tokenmill")).id
        )
        for run in runs.values():
            await client.set_flow_run_state(run, Running(), force=True)
        await client.set_flow_run_state(paused.id, Paused(), force=True)
        runs["paused"] = paused.id

async def states():
    async with get_client() as client:
        return {name: (await client.read_flow_run(run)).state.type.value for name, run in runs.items()}

runs |= {"here": begun_in(sys.argv[1]), "elsewhere": begun_in(sys.argv[2])}
asyncio.run(make())
lost = asyncio.run(runner.close_lost_runs())
print(json.dumps([lost, asyncio.run(states())]))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("server")
    with prefect_server(folder) as url:
        yield folder, url


def closed(server: tuple[Path, str], root: Path) -> tuple[int, list[str]]:
    """How many runs are said to be lost, and which are crashed."""
    folder, url = server
    variables = environment(folder) | {"PREFECT_HOME": str(folder / "client"), "PREFECT_API_URL": url}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(root), str(root / "other")],
        cwd=ROOT, env=variables | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lost, states = json.loads(done.stdout.splitlines()[-1])
    return lost, sorted(name for name, state in states.items() if state == "CRASHED")


def test_lost_runs_are_those_of_the_form_and_of_this_checkout(server: tuple[Path, str], tmp_path: Path) -> None:
    assert closed(server, tmp_path) == (3, ["here", "paused", "pipeline/tokenmill"])


def test_a_run_that_holds_the_checkout_goes_on(server: tuple[Path, str], tmp_path: Path) -> None:
    with one_run(tmp_path):
        assert closed(server, tmp_path) == (2, ["paused", "pipeline/tokenmill"])

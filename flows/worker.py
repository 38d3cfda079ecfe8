"""`make agent`: a Prefect worker that serves the stages of a pool with this checkout, one at a time."""

import argparse
import fcntl
import os
import socket
import sys
import time
from typing import TYPE_CHECKING
from uuid import UUID

from flows.environment import ROOT, environment
from flows.run import server_answers

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# A machine's agents may be started with it, before the server is.
SERVER_SECONDS = 60.0


def main() -> int:
    """Exit code 2 for what was asked for wrongly; else this process becomes the worker."""
    parser = argparse.ArgumentParser(prog="make agent", description=__doc__)
    parser.add_argument("pool", help="its name; a stage that asks for GPUs goes to `gpu`")
    pool, name = parser.parse_args().pool, os.environ.get("TOKENMILL_AGENT") or f"{socket.gethostname()}-{ROOT.name}"
    os.environ.update(worker_environment(name))
    url = os.environ.get("PREFECT_API_URL", "")
    try:
        await_server(url)
        hold(name)
        register(pool, name)
    except ValueError as error:
        print(f"make agent: {error}", file=sys.stderr)
        return 2
    print(f"agent {name} serves the pool {pool} of {url}", flush=True)
    # -P: the project has a folder named mlflow, which must not be mistaken for the library
    start = [sys.executable, "-P", "-m", "prefect", "worker", "start", "--type", "process", "--limit", "1"]
    os.execv(sys.executable, [*start, "--pool", pool, "--name", name, "-q", "default", "-q", name])


def worker_environment(name: str) -> dict[str, str]:
    """The environment of the worker and of the runs that it starts. Prefect's own intervals of 10 s between two looks for work
    and 30 s between two signs of life are for more workers than a team has."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    usual = {"PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_WORKER_HEARTBEAT_SECONDS": "10"}
    ours = {"TOKENMILL_AGENT": name, "TOKENMILL_ROOT": str(ROOT), "PYTHONPATH": path}
    return {**usual, **environment(ROOT), **ours}


def await_server(url: str) -> None:
    """Return once a Prefect server answers there. Raises ValueError when none does, or none was named."""
    deadline = time.monotonic() + SERVER_SECONDS
    while not (url and server_answers(url)):
        if not url or time.monotonic() > deadline:
            what = f"no Prefect server answers at {url}" if url else "is not set"
            raise ValueError(f"PREFECT_API_URL: {what}; name the one that `make ui` or your team runs (docs/teams.md)")
        time.sleep(1)


def hold(name: str) -> None:
    """Hold the lock of this agent's name for as long as the process lives, which keeps it when it becomes the worker.

    Raises ValueError when another process has it: two of one name would be one to the server, and alive when either is.
    """
    path = ROOT / ".scratch" / "agents" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.set_inheritable(descriptor, True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"agent {name} runs already; name a second one of this checkout by TOKENMILL_AGENT") from None


def register(pool: str, name: str) -> None:
    """Make the pool, this agent's queue in it, and the deployment of the flow, where they do not exist.

    Orders go to the pool's queue `default`; one that is sent again goes to the queue of an agent that has not tried it.
    Raises ValueError for a pool of another type.
    """
    from prefect.client.orchestration import get_client  # after the environment is set: Prefect reads it when imported
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.utilities.callables import parameter_schema

    from flows.agent import stage

    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        except ObjectAlreadyExists:
            kind = client.read_work_pool(pool).type
            if kind != "process":
                raise ValueError(f"POOL={pool}: is of type {kind}, and this serves pools of type process") from None
        try:
            client.create_work_queue(name=name, work_pool_name=pool)
        except ObjectAlreadyExists:
            pass
        deployment = client.create_deployment(
            flow_id=client.create_flow(stage),
            name=pool,
            work_pool_name=pool,
            entrypoint="flows.agent.stage",
            description="one stage of the pipeline, by an agent of this pool",
            parameter_openapi_schema=parameter_schema(stage).model_dump_for_openapi(),
            # one process an order; by itself Prefect starts three
            job_variables={"command": "python -m prefect.engine"},
        )
        close_lost(client, deployment, name)


def close_lost(client: "SyncPrefectClient", deployment: UUID, name: str) -> None:
    """Mark as crashed what an earlier process of this agent's name had when it was killed, so that whoever sent it need not
    wait for an agent that is alive again. The name's lock is held: none of these can be going on."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.states import Crashed

    taken = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    mine = {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": taken}}}
    for run in client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate(mine), sort=FlowRunSort.ID_DESC, limit=200
    ):
        if run.labels.get("prefect.worker.name") == name:
            client.set_flow_run_state(run.id, Crashed(message=f"agent {name} was killed and started again"), force=True)


if __name__ == "__main__":
    sys.exit(main())

"""`make agent`: a Prefect worker that serves the stages of a pool with this checkout, one at a time."""

import argparse
import asyncio
import fcntl
import os
import socket
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

from flows.environment import ROOT, environment
from flows.preflight.services import check_prefect
from flows.servers.answers import server_answers
from flows.settings import AGENT
from tasks.runner.own import open_lock

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# A machine's agents may be started with it, before the server is.
SERVER_SECONDS = 60.0


def main() -> int:
    """Exit code: 2 for what was asked for wrongly, else 0 once the worker has been ended."""
    parser = argparse.ArgumentParser(prog="tokenmill agent", description=__doc__)
    parser.add_argument("pool", help="its name; a stage that asks for GPUs goes to `gpu`")
    pool, name = parser.parse_args().pool, AGENT.read() or f"{socket.gethostname()}-{ROOT.name}"
    os.environ.update(worker_environment(name))
    url = os.environ.get("PREFECT_API_URL", "")
    try:
        await_server(url)
        for finding in check_prefect():
            raise ValueError(str(finding))
        hold_name_lock(name)
        register(pool, name)
    except ValueError as error:
        print(f"make agent: {error}", file=sys.stderr)
        return 2
    print(f"agent {name} serves the pool {pool} of {url}", flush=True)
    from flows.agents.prefect_worker import serve  # after the environment is set: Prefect reads it when imported

    with suppress(KeyboardInterrupt):
        asyncio.run(serve(pool, name))
    return 0


def worker_environment(name: str) -> dict[str, str]:
    """The environment of the worker and of the runs that it starts. Prefect's own intervals of 10 s between two looks for work
    and 30 s between two signs of life are for more workers than a team has."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    usual = {"PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_WORKER_HEARTBEAT_SECONDS": "10"}
    ours = {AGENT.name: name, "TOKENMILL_ROOT": str(ROOT), "PYTHONPATH": path}
    return {**usual, **environment(ROOT), **ours}


def await_server(url: str) -> None:
    """Return once a Prefect server answers there. Raises ValueError when none does, or none was named."""
    deadline = time.monotonic() + SERVER_SECONDS
    while not (url and server_answers(url)):
        if not url or time.monotonic() > deadline:
            what = f"no Prefect server answers at {url}" if url else "is not set"
            raise ValueError(f"PREFECT_API_URL: {what}; name the one that `make ui` or your team runs (docs/teams.md)")
        time.sleep(1)


def hold_name_lock(name: str) -> None:
    """Hold the lock of this agent's name for as long as the process lives.

    Raises ValueError when another process has it: two of one name would be one to the server, and alive when either is.
    """
    path = ROOT / ".scratch" / "agents" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"agent {name} runs already; name a second one of this checkout by TOKENMILL_AGENT") from None


def register(pool: str, name: str) -> None:
    """Make the pool, with a template in which nobody can set anything, this agent's queue in it, and the deployment of the
    flow, where they are not so.

    Orders go to the pool's queue `default`; one that is sent again goes to the queue of an agent that has not tried it.
    Raises ValueError for a pool of another type.
    """
    from prefect.client.orchestration import get_client  # after the environment is set: Prefect reads it when imported
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.utilities.callables import parameter_schema

    from flows.agents.engine import flow_of, served_by
    from flows.agents.prefect_worker import TEMPLATE

    served = served_by(pool)
    flow = flow_of(served)
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=TEMPLATE))
        except ObjectAlreadyExists:
            found = client.read_work_pool(pool)
            if found.type != "process":
                raise ValueError(
                    f"POOL={pool}: is of type {found.type}, and this serves pools of type process"
                ) from None
            if found.base_job_template != TEMPLATE:
                client.update_work_pool(pool, WorkPoolUpdate(base_job_template=TEMPLATE))
        try:
            client.create_work_queue(name=name, work_pool_name=pool)
        except ObjectAlreadyExists:
            pass
        deployment = client.create_deployment(
            flow_id=client.create_flow(flow),
            name=pool,
            work_pool_name=pool,
            description=f"one {served}, by an agent of this pool",
            parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
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

"""The worker of an agent: takes the runs of its pool from the server, and starts our own process for each, whatever the server
says of command, environment, folder or code.

Prefect's process worker runs the command that a pool's template or a run's variables name, and the steps that a deployment
names, so to it whoever can write to the server is a user of the machine.
"""

import asyncio
import os
import signal
import subprocess
import sys
from typing import Any, Self

import anyio
from anyio.abc import TaskStatus
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_WORKER_HEARTBEAT_SECONDS
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult

from flows.agents.engine import served_by
from flows.environment import ROOT

# A pool of ours has no variable, and the server refuses a run that brings one.
TEMPLATE: dict[str, Any] = {
    "job_configuration": {"name": "tokenmill"},  # the server wants something there
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
}


class OrderConfiguration(BaseJobConfiguration):
    """Names the run to its process, and nothing else."""

    @classmethod
    async def from_template_and_values(
        cls, base_job_template: dict[str, Any], values: dict[str, Any], client: PrefectClient | None = None
    ) -> Self:
        """The empty configuration, whatever the template and the values say."""
        return cls()


class OrderWorker(BaseWorker[OrderConfiguration, BaseVariables, BaseWorkerResult]):
    """Serves a pool of type process, one run at a time. A run that is cancelled ends itself: flows/agents/agent.py looks."""

    type = "process"
    job_configuration = OrderConfiguration
    _display_name = "Tokenmill agent"

    @classmethod
    def __dispatch_key__(cls) -> str:
        return "tokenmill"  # Prefect's own worker keeps the name of the type

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        """TEMPLATE, should the pool be gone and made again while the worker lives."""
        return TEMPLATE

    async def run(
        self, flow_run: FlowRun, configuration: OrderConfiguration, task_status: TaskStatus[Any] | None = None
    ) -> BaseWorkerResult:
        """Start the run's process and wait for its end; it ends with this worker."""
        process = await anyio.open_process(
            [sys.executable, "-P", "-m", "flows.agents.engine", served_by(self._work_pool_name)],
            cwd=ROOT,
            env={**os.environ, **{name: text for name, text in configuration.env.items() if text is not None}},
            stdin=subprocess.DEVNULL,
            stdout=None,
            stderr=None,
        )
        if task_status:
            task_status.started(process.pid)
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                with anyio.CancelScope(shield=True):
                    await process.wait()
        return BaseWorkerResult(status_code=code, identifier=str(process.pid))


async def serve(pool: str, name: str) -> None:
    """Serve the pool's queue `default` and the one of this agent's name until SIGTERM or Ctrl-C."""
    serving = asyncio.current_task()
    assert serving is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    worker = OrderWorker(
        work_pool_name=pool,
        name=name,
        work_queues=["default", name],
        limit=1,
        heartbeat_interval_seconds=int(PREFECT_WORKER_HEARTBEAT_SECONDS.value()),
        base_job_template=TEMPLATE,
    )
    try:
        await worker.start(printer=lambda *_: None)
    except asyncio.CancelledError:
        print(f"agent {name} stopped", flush=True)

"""The process that offers the pipeline in the Prefect UI and runs, in this checkout, what is started there."""

import asyncio
import os
import signal

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.runner import Runner
from prefect.states import Crashed

from flows.environment import ROOT
from flows.pipeline.flow import pipeline
from flows.pipeline.run_lock import LABEL, checkout, is_going_on
from tasks.report.words import pluralize

NAME = "tokenmill"
# A run that was asked to end is killed after these; Prefect itself allows 30 s.
END_SECONDS, ORPHAN_SECONDS = 40, 5
DESCRIPTION = """\
Raw text in, evaluated compressed language model out. **Run -> Custom run** asks for:

- *preset*: a file of `presets/`; `smoke` ends in a minute or two, `laptop` is the default
- *targets*: stages to bring up to date, with what they need; empty means all
- *force*: run the stages even when nothing they depend on has changed
- *seed*: of everything random
- *where*: `here`, or the work pool to which stages are sent that ask for one
- *publish*: whether the final model becomes `champion`; *after approval* pauses the run until somebody decides
- *overrides*: values of `params.yaml` to change, such as `rl.steps=50`, one an entry
- *parameters*: the same by section, with types, choices and bounds; what is left empty stays as the preset has it

Runs happen one after another in the checkout where `make ui` was started. They write the same `dvc.lock` and record to
the same MLflow store as `make pipeline`. What a run will do is its artifact *plan*; what came out, its artifact *report*.
"""


async def close_lost_runs() -> int:
    """How many runs the server believed to be going on and are now marked as crashed.

    The deployment of the form has no other runner, so at the start of one no run of it can be going on or wait for approval:
    what seems to was lost when an earlier `make ui` was killed. One that `make pipeline` started in this checkout may be, while
    it holds the checkout. Agents' orders and pipelines, and runs of other checkouts, are left to those who do them.
    """
    by_form = await going_on(DeploymentFilter.model_validate({"name": {"any_": [NAME]}}))
    here = [run for run in await going_on(None) if run.labels.get(LABEL) == checkout(ROOT)]
    runs = by_form if is_going_on(ROOT) else [*by_form, *here]
    async with get_client() as client:
        for run in runs:
            await client.set_flow_run_state(run.id, Crashed(message="lost when `make ui` was killed"), force=True)
    return len(runs)


async def going_on(deployment: DeploymentFilter | None) -> list[FlowRun]:
    """The pipeline's runs that the server believes to be going on, of such a deployment; for None those of no deployment."""
    types = [StateType.RUNNING, StateType.PENDING, StateType.PAUSED, StateType.CANCELLING]
    wanted = {"state": {"type": {"any_": types}}, **({} if deployment else {"deployment_id": {"is_null_": True}})}
    async with get_client() as client:
        return await client.read_flow_runs(
            flow_filter=FlowFilter.model_validate({"name": {"any_": [pipeline.name]}}),
            flow_run_filter=FlowRunFilter.model_validate(wanted),
            deployment_filter=deployment,
            sort=FlowRunSort.ID_DESC,
            limit=200,
        )


class StoppableRunner(Runner):
    """A runner that at SIGTERM cancels the run that is going on and ends.

    The one of Prefect 3.8 does not: its handler drops the coroutine that would, and then waits for the run to end.
    """

    def __init__(self) -> None:
        super().__init__(name=NAME, limit=1)
        self._parent = os.getppid()

    def handle_sigterm(self, *_: object) -> None:
        """Have the event loop stop this runner; a signal handler must not do it itself."""
        asyncio.get_running_loop().call_soon_threadsafe(self._end)

    def _end(self) -> None:
        loop = asyncio.get_running_loop()
        self._ending = loop.create_task(self.astop())  # the loop itself keeps no reference to a task
        # Cancelling needs the server, which is gone when `make ui` was killed. This process leads a group, so this ends
        # the run's process too; the stages under it have tied their lives to it.
        loop.call_later(ORPHAN_SECONDS if os.getppid() != self._parent else END_SECONDS, os.killpg, 0, signal.SIGKILL)


async def serve() -> None:
    """Offer the pipeline until SIGTERM. One run at a time: two would write the same params.yaml, dvc.lock and data/."""
    lost = await close_lost_runs()
    if lost:
        print(f"{pluralize(lost, 'run')} of an earlier `make ui` that was killed: marked as crashed", flush=True)
    runner = StoppableRunner()
    await runner.aadd_flow(pipeline, name=NAME, description=DESCRIPTION)
    await runner.start()


if __name__ == "__main__":
    asyncio.run(serve())

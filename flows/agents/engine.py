"""`python -m flows.agents.engine FLOW`: the process of one order, which runs our flow of this name for a flow run of Prefect's.

Prefect's own engine runs what a deployment says, shell commands among it (`pull` steps), and whoever can write to the server
can make a deployment. This one takes of the server the parameters of its flow alone.
"""

import os
import sys
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.engine import handle_engine_signals
from prefect.flow_engine import load_flow_run, run_flow
from prefect.flow_runs import FlowRun
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.states import Failed

PIPELINES = "default"  # the pool whose agents run whole pipelines; those of others run stages
STAGE, PIPELINE = "stage", "pipeline"


def served_by(pool: str) -> str:
    """The flow that agents of this pool run."""
    return PIPELINE if pool == PIPELINES else STAGE


def flow_of(name: str) -> Flow:
    """Our flow of this name. Raises ValueError for another."""
    if name == STAGE:
        from flows.agents.agent import stage

        return stage
    if name == PIPELINE:
        from flows.pipeline.flow import pipeline

        return pipeline
    raise ValueError(f"no flow {name!r}; an agent runs {STAGE} or {PIPELINE}")


def refuse_other(run: FlowRun, name: str) -> bool:
    """Whether the run is of another flow than this one; it has failed then, with a line that says so."""
    with get_client(sync_client=True) as client:
        asked = client.read_flow(run.flow_id).name
        if asked == name:
            return False
        line = f"this agent runs the flow {name} alone, not {asked}; see docs/teams.md"
        client.set_flow_run_state(run.id, Failed(message=line), force=True)
    return True


def main() -> int:
    """Exit code: 0 when the run is recorded, however it ended; 2 for a run of another flow."""
    name, number = sys.argv[1], UUID(os.environ["PREFECT__FLOW_RUN_ID"])
    with handle_engine_signals(number):
        run = load_flow_run(flow_run_id=number)
        if refuse_other(run, name):
            return 2
        run_flow(flow_of(name), flow_run=run, error_logger=flow_run_logger(flow_run=run))  # type: ignore[arg-type]
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m flows.agents.dispatch POOL STAGE [--force]`: one stage by an agent, as a process like `dvc repro`'s."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import Pending
from prefect.tasks import Task

from flows.agents.agent import MISTAKE, timings
from flows.agents.order import TRAVELS, Answer, Order, make_order
from flows.agents.watch import Agents, Sent
from flows.settings import AGENT_DEADLINE
from flows.stage.pools import NO_AGENT
from flows.stage.process import TRANSIENT_CODES
from flows.stage.transfer import pull, push, remember, tracked, uncached
from flows.staleness.lockfile import merge
from lm.files import write_text
from tasks.runner.graph import read_graph
from tasks.runner.record import FLOW_RUN
from tasks.runner.timings import save_timings


def main() -> int:
    """The exit code of the stage; NO_AGENT when nobody is there to do it, 2 for what cannot be sent or taken."""
    parser = argparse.ArgumentParser(prog="flows.agents.dispatch", description=__doc__)
    parser.add_argument("pool")
    parser.add_argument("address")
    parser.add_argument("--force", action="store_true")
    asked, root, parent = parser.parse_args(), Path.cwd(), os.getppid()
    signal.signal(signal.SIGTERM, stop)
    url = os.environ.get("PREFECT_API_URL", "")
    if not url:  # the pipeline's own temporary server is nobody else's
        print(f"pool {asked.pool}: PREFECT_API_URL names no server that agents could ask; this machine does it")
        return NO_AGENT
    try:
        with get_client(sync_client=True) as client:
            agents = Agents(client, asked.pool, AGENT_DEADLINE.read())
            if not agents.alive():
                print(f"pool {asked.pool}: no agent is alive; this machine does it")
                return NO_AGENT
            settings = {name: os.environ[name] for name in TRAVELS if name in os.environ}
            order = make_order(root, asked.address, asked.force, settings)
            push(root, tracked(root, read_graph(root)[asked.address].deps))
            answer = send(client, agents, order, lambda: os.getppid() != parent)
        if answer is None:
            print(f"pool {asked.pool}: no agent is left; this machine does it")
            return NO_AGENT
        if not answer.code:
            accept(root, order, answer)
        return answer.code
    except httpx.TransportError as error:
        print(f"pool {asked.pool}: the Prefect server {url} cannot be reached ({error}); this machine does it")
        return NO_AGENT
    except ValueError as error:
        print(error)
        return MISTAKE


def send(client: SyncPrefectClient, agents: Agents, order: Order, is_unwanted: Callable[[], bool]) -> Answer | None:
    """The answer of the first agent that could do the stage; None when all that tried are lost. is_unwanted: as of
    Sent.outcome, for systems that send no signal when a parent ends, and for one that is lost.

    Each has one try: what killed the stage on one machine, such as too little memory, need not be so on another.
    """
    answer, tried = None, set[str]()
    while others := agents.alive() - tried:
        queue = min(others) if tried else None
        sent = Sent(client, create_run(client, agents.pool, order, queue), agents, queue)
        try:
            outcome = sent.outcome(is_unwanted)
        except BaseException:
            with suppress(SystemExit):  # SIGTERM may follow at once on a pipe that broke when the parent was killed
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            sent.cancel()
            raise
        answer = outcome.answer
        if answer and answer.code not in TRANSIENT_CODES:
            return answer
        tried |= {outcome.agent} if outcome.agent else others
    return answer


def create_run(client: SyncPrefectClient, pool: str, order: Order, queue: str | None) -> UUID:
    """A run of the agents' flow, in one agent's queue or in everybody's. In the pipeline's run it shows as a subflow: Prefect
    wants a task run in between, which stands for it."""
    parent = os.environ.get(FLOW_RUN)
    link = None
    if parent:
        task = Task(fn=lambda: None, name=f"{order.address} by {pool}")
        link = client.create_task_run(task, UUID(parent), dynamic_key=str(time.time_ns()), state=Pending()).id
    return client.create_flow_run_from_deployment(
        client.read_deployment_by_name(f"stage/{pool}").id,
        parameters={"order": order.model_dump()},
        name=order.address,
        parent_task_run_id=link,
        work_queue_name=queue,
    ).id


def accept(root: Path, order: Order, answer: Answer) -> None:
    """Take what the agent made into this checkout: files that DVC does not hold, the lock entry, and the outputs."""
    entry = answer.checked_entry(order)
    aside = uncached(root, order.address)
    for path in [*aside, *timings(order.address)]:
        if path in answer.files:
            write_text(root / path, answer.files[path], durable=True)
    save_timings(root, order.address)
    merge(root, order.address, entry)
    pull(root, [out["path"] for out in entry["outs"] if out["path"] not in aside])
    remember(root, order.address)


def stop(_signal: int, _frame: FrameType | None) -> None:
    """End as a stage that was asked to; what was sent is cancelled on the way out, which no second signal cuts short."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())

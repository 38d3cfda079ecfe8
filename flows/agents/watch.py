"""A stage that an agent has: what it says, its answer, and whether the agent is alive."""

import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    LogFilter,
    LogFilterFlowRunId,
    LogFilterTimestamp,
)
from prefect.client.schemas.objects import FlowRun, WorkerStatus
from prefect.client.schemas.sorting import LogSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelling, Crashed

from flows.agents.agent import LOGGER
from flows.agents.order import Answer
from flows.settings import STOP
from tasks.runner.say import say as tell

POLL_SECONDS = 1.0
# Of the deadline, within which an agent that has taken an order is to begin: 180 s, where the deadline is 90. It does within
# seconds, on a busy machine of two cores within 40.
TO_BEGIN = 2
# After these without a server the stage is given up here; the agent goes on, and the next order finds what it made.
SERVER_SECONDS = 600.0
# Of the seconds that flows.stage.process allows a process that is to end, as this one is: 15 of 20 by default.
TO_CANCEL = 0.75
# Lines of one run come from two processes, each some seconds late.
LATE = timedelta(seconds=30)
AGENT_LABEL = "prefect.worker.name"


class Agents:
    """The agents of a pool. One is alive while its heartbeat, as the server tells it, has changed within the deadline by the
    clock of this machine: those of the others may differ."""

    def __init__(self, client: SyncPrefectClient, pool: str, deadline: float) -> None:
        self.pool, self.deadline = pool, deadline
        self._client = client
        self._seen: dict[str, tuple[datetime | None, float]] = {}

    def alive(self) -> set[str]:
        """Names of the agents that are alive, asked of the server now; none when there is no such pool."""
        try:
            workers = self._client.read_workers_for_work_pool(self.pool, offset=0, limit=200)
        except ObjectNotFound:
            return set()
        now = time.monotonic()
        for worker in workers:
            heartbeat, _ = self._seen.get(worker.name, (None, 0.0))
            if worker.name not in self._seen and worker.status != WorkerStatus.ONLINE:
                self._seen[worker.name] = worker.last_heartbeat_time, now - self.deadline
            elif heartbeat != worker.last_heartbeat_time:
                self._seen[worker.name] = worker.last_heartbeat_time, now
        return {name for name, (_, since) in self._seen.items() if now - since < self.deadline}

    def excuse(self) -> None:
        """Count the deadline of all from now: while there was no server, nobody could give a sign of life."""
        self._seen = {name: (heartbeat, time.monotonic()) for name, (heartbeat, _) in self._seen.items()}


@dataclass(frozen=True)
class Outcome:
    """What became of an order: who had it, None when nobody took it, and the answer, None when the agent was lost."""

    agent: str | None
    answer: Answer | None


class SentOrder:
    """An order that was sent, as a flow run of Prefect's; `queue` names the one agent that may take it, None: any."""

    def __init__(self, client: SyncPrefectClient, run: UUID, agents: Agents, queue: str | None) -> None:
        self._client, self._run, self._agents, self._queue = client, run, agents, queue
        self._said: dict[UUID, str] = {}
        self._last: datetime | None = None

    def outcome(self, is_unwanted: Callable[[], bool]) -> Outcome:
        """Wait until the stage has ended or its agent is lost, and say what it says meanwhile. Raises ValueError when the
        server stays away, and SystemExit once nobody wants the outcome."""
        answered = begun = time.monotonic()
        while True:
            if is_unwanted():
                sys.exit(128 + signal.SIGTERM)
            try:
                run = self._client.read_flow_run(self._run)
                self._say_news()
                answer, alive = self._answer(), self._agents.alive()
            except (httpx.TransportError, PrefectHTTPStatusError) as error:
                if isinstance(error, PrefectHTTPStatusError) and error.response.status_code < 500:
                    raise
                if time.monotonic() - answered > SERVER_SECONDS:
                    raise ValueError(
                        f"the Prefect server has not answered for {SERVER_SECONDS:.0f} s: {error}"
                    ) from None
                self._agents.excuse()
                time.sleep(POLL_SECONDS)
                continue
            answered = time.monotonic()
            if not claimed_by_nobody_known(run):
                begun = answered
            if found := self._ended(run, answer, alive, answered - begun > TO_BEGIN * self._agents.deadline):
                return found
            time.sleep(POLL_SECONDS)

    def _ended(self, run: FlowRun, answer: Answer | None, alive: set[str], late: bool) -> Outcome | None:
        """Outcome of the run where it has ended, else None."""
        state, agent = run.state, run.labels.get(AGENT_LABEL) or self._queue
        assert state is not None
        agent = str(agent) if agent else None
        if answer:
            self._await_last_lines(run)
            for line in answer.tail if answer.code else []:
                if line not in self._said.values():
                    tell(line)
            return Outcome(agent, answer)
        if state.is_cancelled() or state.is_failed():
            return Outcome(agent, Answer(code=1, tail=[say(f"the agent's run ended as {state.name}: {state.message}")]))
        if state.is_crashed():
            say(f"agent {agent} lost the stage: {state.message}")
            return Outcome(agent, None)
        if late or (agent not in alive if agent else not alive):
            who = f"agent {agent}" if agent else f"the agents of pool {self._agents.pool}"
            lost = say(f"{who}: no sign of life for {self._agents.deadline:.0f} s")
            self._client.set_flow_run_state(self._run, Crashed(message=lost), force=True)
            return Outcome(agent, None)
        return None

    def cancel(self) -> None:
        """Have the agent end the stage, and wait a bounded time until it has.

        A server that does not take it is asked again: whoever wanted the stage may be gone, and nobody else would end it. Each
        time by a client of its own, as a signal may have cut a request of the last one short, which tries once: Prefect's by
        itself waits longer between two tries than there is time.
        """
        begun, told = time.monotonic(), 0.0
        while time.monotonic() - begun < (told + TO_CANCEL * STOP.read() if told else SERVER_SECONDS):
            try:
                with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
                    state = client.read_flow_run(self._run).state
                    if state and state.is_final():
                        return
                    if state and state.is_cancelling():
                        told = told or time.monotonic() - begun
                    else:
                        client.set_flow_run_state(self._run, Cancelling())
            except Exception as error:  # whatever it is, the stage still runs
                with suppress(OSError):  # nobody may be there to read it
                    say(f"the agent could not be told to stop yet: {error}")
            time.sleep(POLL_SECONDS / 4)

    def _answer(self) -> Answer | None:
        # by the plain request: the client's own read_artifacts sends nulls that its server refuses (Prefect 3.8)
        mine = {"flow_run_id": {"any_": [str(self._run)]}}
        found = self._client.request("POST", "/artifacts/filter", json={"artifacts": mine, "limit": 1}).json()
        return Answer.model_validate_json(found[0]["data"]) if found else None

    def _say_news(self) -> None:
        """Print the lines of the stage that arrived since."""
        after = LogFilterTimestamp(after_=self._last - LATE) if self._last else None
        mine = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[self._run]), timestamp=after)
        offset = 0
        while page := self._client.read_logs(mine, limit=200, offset=offset, sort=LogSort.TIMESTAMP_ASC):
            offset += len(page)
            for line in page:
                if line.name.endswith(f".{LOGGER}") and line.id not in self._said:
                    self._said[line.id] = say(line.message)
                    self._last = line.timestamp

    def _await_last_lines(self, run: FlowRun) -> None:
        """A run sends its last lines when it ends, which is a moment after its answer."""
        deadline = time.monotonic() + TO_CANCEL * STOP.read()
        while not (run.state and run.state.is_final()) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 4)
            run = self._client.read_flow_run(self._run)
        self._say_news()


def claimed_by_nobody_known(run: FlowRun) -> bool:
    """Whether an agent took the order and did not yet say which; one that dies then would be waited for without end."""
    return bool(run.state and run.state.is_pending() and AGENT_LABEL not in run.labels)


def say(line: str) -> str:
    """Print a line at once, and give it back."""
    tell(line)
    return line

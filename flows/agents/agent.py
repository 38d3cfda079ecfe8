"""One stage for a pipeline that runs elsewhere: the flow that an agent's worker starts for each order."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from uuid import UUID

import httpx
from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.states import Cancelled, State

from flows.agents.order import Answer, Order
from flows.environment import ROOT
from flows.settings import AGENT, GIT_REMOTE
from flows.stage.process import StageResult, run_stage, stop_all
from flows.stage.transfer import pull, push, tracked, uncached
from flows.staleness.declared import stage_declarations
from flows.staleness.rwlock import await_free
from flows.workspaces.worktree import fetch_commit, worktree
from lm.files import write_text
from lm.inputs.hashed import read_ignored
from tasks.core.process import at_parents_end
from tasks.core.yaml import dump_yaml
from tasks.runner.key import path_md5
from tasks.runner.lock import lock_entry
from tasks.runner.timings import paths

LOGGER = "stage"  # the part of a run's log that the stage said itself
MISTAKE = 2  # as of a stage: another try cannot mend it
# How long an answer is offered to a server that does not take it.
DELIVERY_SECONDS = 3600
# Between two looks whether the order still stands.
WATCH_SECONDS = 2.0


class StageEnded(Exception):
    """The stage ended badly, which its answer says more of."""


@flow(name="stage", persist_result=False)
def stage(order: Order) -> State | None:
    """One stage for somebody else: its answer is an artifact of this run. Raises StageEnded when the stage failed."""
    at_parents_end(signal.SIGTERM)  # a stage without its agent would be nobody's to stop
    logger = get_run_logger().getChild(LOGGER)  # type: ignore[union-attr]
    name = AGENT.read() or socket.gethostname()
    with ended_with_order(UUID(flow_run.get_id())) as withdrawn:
        answer = carry_out(ROOT, name, order, lambda line: logger.info(line))
    if withdrawn.is_set():
        return Cancelled(message="whoever ordered the stage has withdrawn it")
    deliver(answer)
    if answer.code:
        raise StageEnded("\n".join([f"{order.address} ended with {answer.code}", *answer.tail]))
    return None


@contextmanager
def ended_with_order(run: UUID) -> Iterator[threading.Event]:
    """Inside, the stage is ended as soon as its run is being cancelled or counts as lost; the event says that it was.

    Prefect's worker (3.8) hears of it by one message on a websocket, and does not ask again for one that it missed.
    """
    withdrawn, over = threading.Event(), threading.Event()

    def watch() -> None:
        with get_client(sync_client=True) as client:
            while not over.wait(WATCH_SECONDS):
                try:
                    state = client.read_flow_run(run).state
                except (httpx.TransportError, PrefectHTTPStatusError):
                    continue  # a server that is away ends nothing
                if state and (state.is_cancelling() or state.is_final()):
                    withdrawn.set()
                    return stop_all()

    watcher = threading.Thread(target=watch, name="order", daemon=True)
    watcher.start()
    try:
        yield withdrawn
    finally:
        over.set()
        watcher.join()


def carry_out(clone: Path, owner: str, order: Order, say: Callable[[str], None]) -> Answer:
    """Bring the order's stage up to date in the owner's worktree of its revision."""
    try:
        fetch_commit(clone, GIT_REMOTE.read(), order.revision)
        with worktree(clone, owner, order.revision) as tree:
            prepare(tree, order)
            await_free(tree, say)
            ended = run_stage(
                tree, order.address, order.force, say, {**order_environment(clone, tree), **order.environment}
            )
            return hand_in(tree, order, ended)
    except (ValueError, OSError) as error:
        return Answer(code=MISTAKE, tail=[f"{order.address}: agent {owner}: {error}"])


def order_environment(clone: Path, tree: Path) -> dict[str, str]:
    """What the stage's processes are to have: the worktree's code, and a record of runs that outlives the worktree."""
    store = clone / "mlflow" / "store"
    tracking = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    store.mkdir(parents=True, exist_ok=True)
    return {"PYTHONPATH": str(tree), "MLFLOW_TRACKING_URI": tracking}


def prepare(tree: Path, order: Order) -> None:
    """Give the worktree the order's params, lock and inputs. Raises ValueError when the order is of another stage than the
    worktree's, or an input is not what was ordered."""
    committed = stage_declarations(tree)
    write_text(tree / "params.yaml", order.params, durable=True)
    write_text(tree / "dvc.lock", order.lock, durable=True)
    graph = stage_declarations(tree)
    order.held_to(graph, committed)
    pull(tree, tracked(tree, list(graph[order.address].deps)))
    with chdir(tree):
        ignored = read_ignored()
        for path, md5 in order.inputs.items():
            if not Path(path).exists():
                raise ValueError(
                    f"the input {path} is not in revision {order.revision[:12]}: commit it, or `dvc add` it"
                )
            if path_md5(Path(path), ignored) != md5:
                raise ValueError(f"the input {path} is not the one that was ordered: commit it, or `dvc add` it")


def hand_in(tree: Path, order: Order, ended: StageResult) -> Answer:
    """Push what the stage made, and say how it ended."""
    if ended.code:
        return Answer(code=ended.code, tail=ended.tail)
    entry = lock_entry(tree, order.address)
    assert entry is not None  # of a stage that has just ended well
    aside = uncached(tree, order.address)
    push(tree, [out["path"] for out in entry["outs"] if out["path"] not in aside])
    if ended.how == "Ran":  # by a new file of times the coordinator sees that the stage ran
        aside += timings(order.address)
    files = {path: (tree / path).read_text() for path in aside if (tree / path).exists()}
    return Answer(code=0, tail=ended.tail, entry=dump_yaml(entry), files=files)


def timings(address: str) -> list[str]:
    """Where the figures of the run that made the output are, and the record of it."""
    return [path.as_posix() for path in paths(address)]


def deliver(answer: Answer) -> None:
    """Leave the answer with the server; hours of work are not lost to a server that is away for minutes."""
    deadline = time.monotonic() + DELIVERY_SECONDS
    while True:
        try:
            create_markdown_artifact(answer.model_dump_json(), description="the answer of an agent")
            return
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)

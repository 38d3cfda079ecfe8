"""MLflow: the record of what ran. The one file that imports mlflow, and never on the path of training.

One parent run a pipeline run, one child a stage, which the pipeline's process records (tracking_socket.py), else a thread of
the stage (tracker.py): importing mlflow takes 1.7 s of a core. Whatever goes wrong is one line of warning.
TOKENMILL_TRACKING=off switches it off.
"""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import psutil

from tasks.core.process import no_collection
from tasks.runner.again import in_batches, is_final, retry_until
from tasks.runner.names import flatten, lawful, shortened
from tasks.runner.own import open_lock, stand_ins
from tasks.runner.proxies import without_proxy
from tasks.runner.record import process_tags
from tasks.runner.say import say
from tasks.runner.settings import TRACKING, TRACKING_SECONDS
from tasks.runner.tracking_events import Answer, Begin, End, Event, Made, Point, Said, Samples, all_that_wait
from tasks.runner.unended import Ending, forget, note, noted

EXPERIMENT = "tokenmill"
LAST = (
    2 / 3
)  # of the seconds that a stage waits for its record, for a store that does not take the end of a run at once
MOST_WAITING = 100_000  # values of curves kept for a store that is away: 40 MB
# A process began when its run says, to within this: the clock it is computed from is corrected now and then.
START_SECONDS = 10.0
Result = TypeVar("Result")
# MLflow looks whether it knows a data set, then makes it: of two stages that read the same one fails.
_making_data_sets = threading.Lock()


def enabled() -> bool:
    """Whether runs are to be recorded."""
    return TRACKING.read() == "on"


def _print(line: str) -> None:
    say(line, error=True)


def guarded(what: str, work: Callable[[], Result], say: Callable[[str], None] = _print) -> Result | None:
    """Result of the work; None when tracking is off, or, after a warning to `say`, in trouble."""
    if not enabled():
        return None
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - by contract: tracking warns and never fails
        say(_warning(what, error))
        return None


def reason_of(error: Exception) -> str:
    """Kind of the error and the first line of what it says, at most 200 characters of it."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _warning(what: str, error: Exception) -> str:
    return f"warning: tracking: {what} failed: {reason_of(error)}"


def connect() -> Any:
    """An MLflow client of MLFLOW_TRACKING_URI, else of the store under mlflow/store. A store of SQLite is made once, under a
    lock."""
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true", **without_proxy(), **stand_ins())
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # it tells of every table it makes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    with no_collection():  # what the client needs it imports itself
        return _connect()


def _connect() -> Any:
    import mlflow

    if not hasattr(mlflow, "MlflowClient"):
        raise ImportError("the library mlflow is not installed, and the folder mlflow/ was found in its place")
    store = Path("mlflow/store").absolute()
    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    if not uri.startswith("sqlite:"):
        return mlflow.MlflowClient(uri)
    if "MLFLOW_TRACKING_URI" not in os.environ:
        store.mkdir(parents=True, exist_ok=True)
    # beside the database, whoever makes it: of two that make its tables at once one fails, and may leave it unusable
    database = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    with os.fdopen(open_lock(database.parent / "create.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client = mlflow.MlflowClient(uri)
        client.search_experiments(max_results=1)
        return client


def experiment_request() -> dict[str, Any]:
    """What a server is sent to make the experiment of our runs: its kind, beside its name, else pages take it for a chat
    application's."""
    return {"name": EXPERIMENT, "tags": [{"key": "mlflow.experimentKind", "value": "custom_model_development"}]}


def _experiment(client: Any) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found and found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
        say(f"tracking: the experiment {EXPERIMENT} was deleted; it is restored, with its runs")
    if found:
        return found.experiment_id
    here = None if "MLFLOW_TRACKING_URI" in os.environ else Path("mlflow/store/artifacts").absolute().as_uri()
    tags = {tag["key"]: tag["value"] for tag in experiment_request()["tags"]}
    try:
        return client.create_experiment(EXPERIMENT, here, tags=tags)
    except Exception:  # another stage made it in between
        return client.get_experiment_by_name(EXPERIMENT).experiment_id


def _log_params(client: Any, run: str, params: dict[str, str]) -> None:
    from mlflow.entities import Param

    found = [Param(lawful(key), value) for key, value in params.items() if key]
    for start in range(0, len(found), 100):  # the server's limit of a batch
        client.log_batch(run, params=found[start : start + 100])


def _log_inputs(client: Any, run: str, md5s: dict[str, str]) -> None:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput

    datasets = [
        MetaDataset(CodeDatasetSource(tags={"path": path}), name=shortened(path, 500), digest=md5)  # type: ignore[abstract]
        for path, md5 in md5s.items()
        if not path.startswith(("tasks", "lm", "kernels"))
    ]
    inputs = [DatasetInput(dataset._to_mlflow_entity(), []) for dataset in datasets]
    if inputs:
        with _making_data_sets:
            client.log_inputs(run, datasets=inputs)


def _log_samples(client: Any, run: str, waiting: list[Samples]) -> None:
    """Keep the texts that wait, an artifact a step."""
    while waiting:
        said = waiting.pop(0)
        text = "\n\n".join(f"{prompt}[...]{written}" for prompt, written in said.texts.items())
        client.log_text(run, text, f"samples/{said.step:08}.txt")


def record(begin: Begin, events: SimpleQueue[Event], answer: Callable[[Answer], None]) -> None:
    """Record a stage's run in the store: what it says to the queue, until that is End. `answer` is told the run's number, once
    there is one, and warnings. Raises the store's error where it takes no run, or not its end."""
    client = connect()  # first: its settings must stand before mlflow is imported
    from mlflow.entities import Metric, RunTag

    def guard(what: str, work: Callable[[], Any]) -> None:
        guarded(f"{what} of {begin.stage}", work, lambda line: answer(Said(line)))

    close_killed(client)
    made = client.create_run(_experiment(client), begin.at, tags=begin.tags, run_name=begin.stage)
    run = made.info.run_id
    answer(Made(client.tracking_uri, run))
    guard("the parameters", lambda: _log_params(client, run, begin.params))
    guard("the inputs", lambda: _log_inputs(client, run, begin.inputs))
    waiting: list[Metric] = []
    texts: list[Samples] = []
    send = partial(in_batches, waiting, 1000, partial(client.log_batch, run))  # the server's limit of a batch
    end, is_troubled = None, False
    while end is None:
        for event in all_that_wait(events):
            match event:
                case Point(step, values, at):
                    waiting += [Metric(lawful(name), float(value), at, step) for name, value in values.items()]
                case Samples():
                    texts.append(event)
                case End():
                    end = event
        del waiting[:-MOST_WAITING], texts[:-MOST_WAITING]
        try:
            send()
            _log_samples(client, run, texts)
        except Exception as error:  # noqa: BLE001 - by contract; what waits is tried again with the next points
            if not is_troubled:
                answer(Said(_warning(f"{begin.stage}, which goes on", error)))
            is_troubled = True
    by = time.monotonic() + LAST * TRACKING_SECONDS.read()
    waiting += [Metric(lawful(name), float(value), end.at, 0) for name, value in end.metrics.items()]
    named = [RunTag(lawful(name), value) for name, value in end.tags.items()]
    ending = Ending(run, end.status, end.at)
    guard("the curves", lambda: retry_until(by, send))
    guard("the tags", lambda: retry_until(by, lambda: client.log_batch(run, tags=named)))
    retry_until(by, lambda: _end_run(client, ending))


def _end_run(client: Any, ending: Ending) -> None:
    try:
        client.set_terminated(ending.run, ending.status, ending.at)
    except Exception as error:
        if not is_final(error):  # such as a run that was deleted
            raise
    forget(client.tracking_uri, ending.run)


def close_killed(client: Any) -> None:
    """End every run whose end the store had not taken, and as KILLED each still RUNNING whose process on this host is gone."""
    for ending in noted(client.tracking_uri):
        guarded("the end of an earlier run", partial(_end_run, client, ending))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if not experiment:
        return
    here = f"attributes.status = 'RUNNING' and tags.`process.host` = '{socket.gethostname()}'"
    for run in client.search_runs([experiment.experiment_id], here):
        if not _goes_on(run.data.tags):
            client.set_terminated(run.info.run_id, "KILLED")


def _goes_on(tags: dict[str, str]) -> bool:
    """Whether the process that a run's tags name still works; one that its parent has not taken note of has ended."""
    try:
        process = psutil.Process(int(tags.get("process.pid") or 0))
        started = float(tags.get("process.started") or 0)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < START_SECONDS
    except psutil.NoSuchProcess:
        return False


def start_parent(tags: dict[str, str], params: dict[str, Any], name: str = "pipeline") -> str | None:
    """The id of a new run for a whole pipeline run; give it to the stages as TOKENMILL_PARENT_RUN."""

    def work() -> str:
        client = connect()
        close_killed(client)
        run = client.create_run(_experiment(client), tags=process_tags() | tags, run_name=name).info.run_id
        guarded("the pipeline's parameters", lambda: _log_params(client, run, flatten(params)))
        return run

    return guarded("the pipeline's run", work)


def finish_parent(run: str | None, status: str) -> None:
    """End the pipeline's run; where the store does not take it, the next start does."""

    def work() -> None:
        client, ending = connect(), Ending(str(run), status, int(time.time() * 1000))
        note(client.tracking_uri, ending)
        retry_until(time.monotonic() + LAST * TRACKING_SECONDS.read(), lambda: _end_run(client, ending))

    if run:
        guarded("the pipeline's run", work)


def record_results(run: str | None, metrics: dict[str, float], page: Path) -> None:
    """What a whole pipeline run came to: its final figures as metrics, and the report as an artifact."""

    def work() -> None:
        client = connect()
        for name, value in metrics.items():
            client.log_metric(run, name, value)
        client.log_artifact(run, str(page))

    if run:
        guarded("the pipeline's figures", work)


def run_for_key(client: Any, key: str) -> str | None:
    """The id of the newest finished run with this stage key: the one that made the bytes, however they came here since."""
    found = client.search_runs(
        [_experiment(client)],
        f"tags.`stage.key` = '{key}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return found[0].info.run_id if found else None


def tags_of(run: str) -> dict[str, str] | None:
    """The tags of a run; None, after a warning, when this store does not know it."""
    return guarded(f"looking up the run {run}", lambda: connect().get_run(run).data.tags)


def tags_for_key(key: str) -> dict[str, str] | None:
    """The tags of the newest finished run with this stage key; None when this store knows none."""

    def work() -> dict[str, str] | None:
        client = connect()
        run = run_for_key(client, key)
        return client.get_run(run).data.tags if run else None

    return guarded("looking up a stage's run", work)


def maker_of(key: str) -> tuple[str, datetime] | None:
    """The id of the run that made the bytes of this stage key, and when it ended; None where this store knows of none."""

    def work() -> tuple[str, datetime] | None:
        client = connect()
        run = run_for_key(client, key)
        return (run, datetime.fromtimestamp(client.get_run(run).info.end_time / 1000, UTC)) if run else None

    return guarded("looking for the run", work)


def experiment_of(run: str) -> str | None:
    """The id of the experiment that a run is in."""
    return guarded("asking for a run", lambda: connect().get_run(run).info.experiment_id)


def external_model(client: Any, name: str, run: str | None, tags: dict[str, str], params: dict[str, str]) -> str:
    """The id of a new model that MLflow keeps no bytes of; run: the one that made it."""
    import mlflow

    mlflow.set_tracking_uri(client.tracking_uri)
    made = mlflow.create_external_model(
        name, source_run_id=run, tags=tags, params=params, experiment_id=_experiment(client)
    )
    return made.model_id

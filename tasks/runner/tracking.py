"""MLflow: the record of what ran. The one file that imports mlflow, and never on the path of training.

One parent run a pipeline run, one child a stage. A stage's tracker works in a thread of its own (importing mlflow alone
takes two seconds); whatever goes wrong there is one line of warning. TOKENMILL_TRACKING=off switches it off.
"""

import fcntl
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tasks.core.process import no_collection
from tasks.core.yaml import read_yaml
from tasks.runner.again import in_batches, is_final, until
from tasks.runner.graph import Entry
from tasks.runner.key import locked_key
from tasks.runner.names import flatten, lawful, shortened
from tasks.runner.own import open_lock, stand_ins
from tasks.runner.proxies import without_proxy
from tasks.runner.record import PARENT_RUN, process_tags
from tasks.runner.unended import Ending, forget, note, noted

EXPERIMENT = "tokenmill"
CHAMPION = "champion"  # the alias of the registered model that is in use
CLOSE_SECONDS = 30.0
LAST_SECONDS = 20.0  # of these, for a store that does not take the end of a run at once
MOST_WAITING = 100_000  # points of curves kept for a store that is away: 40 MB
# A process began when its run says, to within this: the clock it is computed from is corrected now and then.
START_SECONDS = 10.0
Result = TypeVar("Result")


def enabled() -> bool:
    """Whether runs are to be recorded."""
    return os.environ.get("TOKENMILL_TRACKING", "on") != "off"


def _guarded(what: str, work: Callable[[], Result]) -> Result | None:
    """What the work returns; None, after a warning, when tracking is off or in trouble."""
    if not enabled():
        return None
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - by contract: tracking warns and never fails
        _warn(what, error)
        return None


def _warn(what: str, error: Exception) -> bool:
    reason = str(error).strip().splitlines() or [""]
    print(f"warning: tracking: {what} failed: {type(error).__name__}: {reason[0][:200]}", file=sys.stderr, flush=True)
    return True


def _client() -> Any:
    """An MLflow client of MLFLOW_TRACKING_URI, else of the store under mlflow/store, which is made once, under a lock."""
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
    store.mkdir(parents=True, exist_ok=True)
    with os.fdopen(open_lock(store / "create.lock"), "w") as lock:
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
        print(f"tracking: the experiment {EXPERIMENT} was deleted; it is restored, with its runs", flush=True)
    if found:
        return found.experiment_id
    here = None if "MLFLOW_TRACKING_URI" in os.environ else Path("mlflow/store/artifacts").absolute().as_uri()
    tags = {tag["key"]: tag["value"] for tag in experiment_request()["tags"]}
    try:
        return client.create_experiment(EXPERIMENT, here, tags=tags)
    except Exception:  # another stage made it in between
        return client.get_experiment_by_name(EXPERIMENT).experiment_id


def _log_params(client: Any, run: str, params: dict[str, Any]) -> None:
    from mlflow.entities import Param

    flat = [Param(lawful(key), value) for key, value in flatten(params).items() if key]
    for start in range(0, len(flat), 100):  # the server's limit of a batch
        client.log_batch(run, params=flat[start : start + 100])


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
        client.log_inputs(run, datasets=inputs)


def _log_samples(client: Any, run: str, waiting: queue.SimpleQueue[tuple[int, dict[str, str]]]) -> None:
    """The texts that wait, an artifact a step."""
    while not waiting.empty():
        step, texts = waiting.get()
        text = "\n\n".join(f"{prompt}[...]{written}" for prompt, written in texts.items())
        client.log_text(run, text, f"samples/{step:08}.txt")


class Tracker:
    """The record of one stage's run. Everything is said to a queue; the thread behind it never holds the stage up."""

    def __init__(self, entry: Entry, key: str, md5s: dict[str, str], params: dict[str, Any]) -> None:
        self._began = int(time.time() * 1000)
        self._queue: queue.SimpleQueue[tuple[int, dict[str, float], int] | None] = queue.SimpleQueue()
        self._samples: queue.SimpleQueue[tuple[int, dict[str, str]]] = queue.SimpleQueue()
        self._end: tuple[str, dict[str, float], dict[str, float], dict[str, str]] = ("FAILED", {}, {}, {})
        self._ended = 0  # in ms
        self._made: tuple[str, str] | None = None  # store and number of the run
        self._thread: threading.Thread | None = None
        if enabled():
            sections = {name: params[name] for name in entry.params if name in params}
            work = (entry, key, md5s, sections)
            self._thread = threading.Thread(
                target=lambda: _guarded(entry.address, lambda: self._record(*work)), daemon=True
            )
            self._thread.start()

    def point(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each curve."""
        if self._thread and self._thread.is_alive():  # else it would pile up for nobody
            self._queue.put((step, values, int(time.time() * 1000)))

    def samples(self, step: int, texts: dict[str, str]) -> None:
        """What the model made of each prompt, an artifact samples/<step>.txt."""
        if self._thread and self._thread.is_alive():
            self._samples.put((step, texts))

    def close(
        self, status: str, metrics: dict[str, float], facts: dict[str, float], tags: dict[str, str] | None = None
    ) -> None:
        """End the run (FINISHED, FAILED or KILLED), and wait a bounded time until it is recorded."""
        if self._thread:
            self._end, self._ended = (status, metrics, facts, tags or {}), int(time.time() * 1000)
            if self._made:  # before the wait: the store may be locked, or gone, until this process has ended
                note(self._made[0], Ending(self._made[1], status, self._ended))
            self._queue.put(None)
            self._thread.join(CLOSE_SECONDS)
            if self._thread.is_alive():
                print(f"warning: tracking: gave up after {CLOSE_SECONDS:.0f} s", file=sys.stderr, flush=True)

    def _record(self, entry: Entry, key: str, md5s: dict[str, str], params: dict[str, Any]) -> None:
        client = _client()  # first: its settings must stand before mlflow is imported
        from mlflow.entities import Metric, RunTag

        close_killed(client)
        tags = process_tags() | {
            "dvc.stage": entry.address,
            "stage.key": key,
            "dvc.out": " ".join(entry.outs),
        }
        if parent := os.environ.get(PARENT_RUN):
            tags["mlflow.parentRunId"] = parent
        made = client.create_run(_experiment(client), self._began, tags=tags, run_name=entry.address)
        run = made.info.run_id
        self._made = client.tracking_uri, run
        _guarded(f"the parameters of {entry.address}", lambda: _log_params(client, run, params))
        _guarded(f"the inputs of {entry.address}", lambda: _log_inputs(client, run, md5s))
        waiting: list[Metric] = []
        send = partial(in_batches, waiting, 1000, partial(client.log_batch, run))  # the server's limit of a batch
        ended = troubled = False
        while not ended:
            points = [self._queue.get()]
            while len(points) < 200 and points[-1] is not None and not self._queue.empty():
                points.append(self._queue.get())
            ended = points[-1] is None
            new = [Metric(lawful(k), float(v), ms, s) for p in points if p for s, vs, ms in [p] for k, v in vs.items()]
            waiting[:] = (waiting + new)[-MOST_WAITING:]
            try:
                send()
                _log_samples(client, run, self._samples)
            except Exception as error:  # noqa: BLE001 - by contract; what waits is tried again with the next points
                troubled = troubled or _warn(f"{entry.address}, which goes on", error)
        status, metrics, facts, tags = self._end
        final = {**{f"final.{k}": v for k, v in metrics.items()}, **{f"run.{k}": v for k, v in facts.items()}}
        now, by = self._ended, time.monotonic() + LAST_SECONDS
        waiting += [Metric(lawful(name), float(v), now, 0) for name, v in final.items()]
        named = [RunTag(lawful(name), value) for name, value in tags.items()]
        _guarded(f"the curves of {entry.address}", lambda: until(by, send))
        _guarded(f"the tags of {entry.address}", lambda: until(by, lambda: client.log_batch(run, tags=named)))
        until(by, lambda: _end_run(client, Ending(run, status, now)))


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
        _guarded("the end of an earlier run", partial(_end_run, client, ending))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if not experiment:
        return
    here = f"attributes.status = 'RUNNING' and tags.`process.host` = '{socket.gethostname()}'"
    for run in client.search_runs([experiment.experiment_id], here):
        pid, started = run.data.tags.get("process.pid"), run.data.tags.get("process.started")
        try:
            alive = abs(psutil.Process(int(pid or 0)).create_time() - float(started or 0)) < START_SECONDS
        except psutil.NoSuchProcess:
            alive = False
        if not alive:
            client.set_terminated(run.info.run_id, "KILLED")


def start_parent(tags: dict[str, str], params: dict[str, Any], name: str = "pipeline") -> str | None:
    """The id of a new run for a whole pipeline run; give it to the stages as TOKENMILL_PARENT_RUN."""

    def work() -> str:
        client = _client()
        close_killed(client)
        run = client.create_run(_experiment(client), tags=process_tags() | tags, run_name=name).info.run_id
        _guarded("the pipeline's parameters", lambda: _log_params(client, run, params))
        return run

    return _guarded("the pipeline's run", work)


def finish_parent(run: str | None, status: str) -> None:
    """End the pipeline's run; where the store does not take it, the next start does."""

    def work() -> None:
        client, ending = _client(), Ending(str(run), status, int(time.time() * 1000))
        note(client.tracking_uri, ending)
        until(time.monotonic() + LAST_SECONDS, lambda: _end_run(client, ending))

    if run:
        _guarded("the pipeline's run", work)


def record_results(run: str | None, metrics: dict[str, float], page: Path) -> None:
    """What a whole pipeline run came to: its final figures as metrics, and the report as an artifact."""

    def work() -> None:
        client = _client()
        for name, value in metrics.items():
            client.log_metric(run, name, value)
        client.log_artifact(run, str(page))

    if run:
        _guarded("the pipeline's figures", work)


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
    return _guarded(f"looking up the run {run}", lambda: _client().get_run(run).data.tags)


def tags_for_key(key: str) -> dict[str, str] | None:
    """The tags of the newest finished run with this stage key; None when this store knows none."""

    def work() -> dict[str, str] | None:
        client = _client()
        run = run_for_key(client, key)
        return client.get_run(run).data.tags if run else None

    return _guarded("looking up a stage's run", work)


def maker_of(key: str) -> tuple[str, datetime] | None:
    """The id of the run that made the bytes of this stage key, and when it ended; None where this store knows of none."""

    def work() -> tuple[str, datetime] | None:
        client = _client()
        run = run_for_key(client, key)
        return (run, datetime.fromtimestamp(client.get_run(run).info.end_time / 1000, UTC)) if run else None

    return _guarded("looking for the run", work)


def _locked(stage: str) -> dict[str, Any] | None:
    """What dvc.lock says of a stage."""
    path = Path("dvc.lock")
    return (read_yaml(path) or {}).get("stages", {}).get(stage) if path.exists() else None


def register_model(name: str, stage: str, path: str, md5: str, revision: str, metrics: dict[str, float]) -> str | None:
    """The version under which the model of a stage is registered, by reference: path, DVC md5, git revision, no bytes.

    The same md5 keeps its version, whoever registers it again. It points to the run that made the bytes, which dvc.lock
    leads to by the stage key, when this store knows it.
    """
    return _guarded(f"registering {name}", lambda: _register(_client(), name, stage, path, md5, revision, metrics))


def _register(client: Any, name: str, stage: str, path: str, md5: str, revision: str, metrics: dict[str, float]) -> str:
    import mlflow

    known = {v.tags.get("dvc.md5"): v.version for v in client.search_model_versions(f"name = '{name}'")}
    if md5 in known:
        _add_figures(client, name, str(known[md5]), metrics)
        return str(known[md5])
    locked = _locked(stage)
    tags = {"dvc.md5": md5, "dvc.path": path, "git.revision": revision, "dvc.stage": stage}
    mlflow.set_tracking_uri(client.tracking_uri)
    model = mlflow.create_external_model(
        name,
        source_run_id=run_for_key(client, locked_key(locked)) if locked else None,
        tags=tags,
        params={lawful(key): repr(value) for key, value in metrics.items()},
        experiment_id=_experiment(client),
    )
    if name not in {m.name for m in client.search_registered_models(f"name = '{name}'")}:
        client.create_registered_model(name)
    version = client.create_model_version(name, f"models:/{model.model_id}", tags=tags, model_id=model.model_id)
    return str(version.version)


def _add_figures(client: Any, name: str, version: str, metrics: dict[str, float]) -> None:
    """Give a version that was registered before its evaluation the figures that this has found since."""
    if not metrics:
        return
    model = client.get_logged_model(client.get_model_version(name, version).source.removeprefix("models:/"))
    if new := {key: repr(value) for key, value in metrics.items() if key not in model.params}:
        client.log_model_params(model.model_id, new)


def publish_model(name: str, stage: str, path: str, md5: str, revision: str, run: str | None) -> str:
    """The version of this md5, which from now on is the one of the alias `champion`; the pipeline's run is tagged with it.

    It was asked for, so unlike all else here it raises RuntimeError when it cannot be done.
    """
    if not enabled():
        raise RuntimeError("publish: TOKENMILL_TRACKING=off leaves no registry to publish in")
    try:
        client = _client()
        version = _register(client, name, stage, path, md5, revision, {})
        client.set_registered_model_alias(name, CHAMPION, version)
        if run:
            client.set_tag(run, "published", f"{name} version {version}")
        return version
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        raise RuntimeError(f"publish: MLflow refused: {type(error).__name__}: {reason[0][:200]}") from error


def experiment_of(run: str) -> str | None:
    """The id of the experiment that a run is in."""
    return _guarded("asking for a run", lambda: _client().get_run(run).info.experiment_id)

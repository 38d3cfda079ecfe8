"""MLflow: the record of what ran. The one file that imports mlflow, and never on the path of training.

One parent run a pipeline run, one child a stage. A stage's tracker works in a thread of its own (importing mlflow alone
takes two seconds); whatever goes wrong there is one line of warning. TOKENMILL_TRACKING=off switches it off.
"""

import fcntl
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tasks.core.graph import Entry
from tasks.core.key import locked_key
from tasks.core.yaml import read_yaml

EXPERIMENT = "tokenmill"
PARENT_RUN, FLOW_RUN = "TOKENMILL_PARENT_RUN", "TOKENMILL_FLOW_RUN"
CLOSE_SECONDS = 30.0
# A process began when its run says, to within this: the clock it is computed from is corrected now and then.
START_SECONDS = 10.0
# What the pipeline itself writes into the tree while it runs.
OUR_WRITES = (":!data/metrics", ":!dvc.lock")
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


def _warn(what: str, error: Exception) -> None:
    reason = str(error).strip().splitlines() or [""]
    print(f"warning: tracking: {what} failed: {type(error).__name__}: {reason[0][:200]}", file=sys.stderr, flush=True)


def _client() -> Any:
    """An MLflow client of MLFLOW_TRACKING_URI, else of the store under mlflow/store, which is made once, under a lock."""
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # it tells of every table it makes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    import mlflow

    if not hasattr(mlflow, "MlflowClient"):
        raise ImportError("the library mlflow is not installed, and the folder mlflow/ was found in its place")
    store = Path("mlflow/store").absolute()
    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    if not uri.startswith("sqlite:"):
        return mlflow.MlflowClient(uri)
    store.mkdir(parents=True, exist_ok=True)
    with (store / "create.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client = mlflow.MlflowClient(uri)
        client.search_experiments(max_results=1)
        return client


def _experiment(client: Any) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found:
        return found.experiment_id
    here = None if "MLFLOW_TRACKING_URI" in os.environ else Path("mlflow/store/artifacts").absolute().as_uri()
    kind = {"mlflow.experimentKind": "custom_model_development"}  # else the UI opens its page for chat applications
    try:
        return client.create_experiment(EXPERIMENT, here, tags=kind)
    except Exception:  # another stage made it in between
        return client.get_experiment_by_name(EXPERIMENT).experiment_id


def _git(*arguments: str) -> str:
    if not shutil.which("git"):
        return ""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()


def _process_tags() -> dict[str, str]:
    process = psutil.Process()
    return {
        "git.revision": _git("rev-parse", "HEAD"),
        "git.dirty": str(bool(_git("status", "--porcelain", "--", ".", *OUR_WRITES))).lower(),
        "prefect.flow_run_id": os.environ.get(FLOW_RUN, ""),
        "process.host": socket.gethostname(),
        "process.pid": str(process.pid),
        "process.started": str(process.create_time()),
    }


def flatten(values: Any, name: str = "") -> dict[str, str]:
    """Nested params as MLflow wants them: dotted names, values as text of at most 6000 characters."""
    pieces: Iterable[tuple[Any, Any]]
    if isinstance(values, dict) and values:
        pieces = values.items()
    elif isinstance(values, list) and values:
        pieces = enumerate(values)
    else:
        return {name: str(values)[:6000]}
    return {k: v for key, part in pieces for k, v in flatten(part, f"{name}.{key}" if name else str(key)).items()}


def _log_params(client: Any, run: str, params: dict[str, Any]) -> None:
    from mlflow.entities import Param

    flat = [Param(key, value) for key, value in flatten(params).items() if key]
    for start in range(0, len(flat), 100):  # the server's limit of a batch
        client.log_batch(run, params=flat[start : start + 100])


def _log_inputs(client: Any, run: str, md5s: dict[str, str]) -> None:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput

    datasets = [
        MetaDataset(CodeDatasetSource(tags={"path": path}), name=path, digest=md5)  # type: ignore[abstract]
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
        self._end: tuple[str, dict[str, float], dict[str, float]] = ("FAILED", {}, {})
        self._thread: threading.Thread | None = None
        if enabled():
            sections = {name: params[name] for name in entry.params if name in params}
            work = (entry, key, md5s, sections)
            self._thread = threading.Thread(
                target=lambda: _guarded(entry.address, lambda: self._record(*work)), daemon=True
            )
            self._thread.start()

    def point(self, step: int, values: dict[str, float]) -> None:
        """A point of each curve."""
        if self._thread and self._thread.is_alive():  # else it would pile up for nobody
            self._queue.put((step, values, int(time.time() * 1000)))

    def samples(self, step: int, texts: dict[str, str]) -> None:
        """What the model made of each prompt, an artifact samples/<step>.txt."""
        if self._thread and self._thread.is_alive():
            self._samples.put((step, texts))

    def close(self, status: str, metrics: dict[str, float], facts: dict[str, float]) -> None:
        """End the run (FINISHED, FAILED or KILLED), and wait a bounded time until it is recorded."""
        if self._thread:
            self._end = (status, metrics, facts)
            self._queue.put(None)
            self._thread.join(CLOSE_SECONDS)
            if self._thread.is_alive():
                print(f"warning: tracking: gave up after {CLOSE_SECONDS:.0f} s", file=sys.stderr, flush=True)

    def _record(self, entry: Entry, key: str, md5s: dict[str, str], params: dict[str, Any]) -> None:
        client = _client()  # first: its settings must stand before mlflow is imported
        from mlflow.entities import Metric

        close_killed(client)
        tags = _process_tags() | {"dvc.stage": entry.address, "stage.key": key, "dvc.out": " ".join(entry.outs)}
        if parent := os.environ.get(PARENT_RUN):
            tags["mlflow.parentRunId"] = parent
        made = client.create_run(_experiment(client), self._began, tags=tags, run_name=entry.address)
        run = made.info.run_id
        _log_params(client, run, params)
        _log_inputs(client, run, md5s)
        ended = False
        while not ended:
            points = [self._queue.get()]
            while len(points) < 200 and points[-1] is not None and not self._queue.empty():
                points.append(self._queue.get())
            ended = points[-1] is None
            curves = [Metric(k, float(v), ms, step) for p in points if p for step, vs, ms in [p] for k, v in vs.items()]
            for start in range(0, len(curves), 1000):  # the server's limit of a batch
                client.log_batch(run, metrics=curves[start : start + 1000])
            _log_samples(client, run, self._samples)
        status, metrics, facts = self._end
        final = {**{f"final.{k}": v for k, v in metrics.items()}, **{f"run.{k}": v for k, v in facts.items()}}
        now = int(time.time() * 1000)
        client.log_batch(run, metrics=[Metric(name.replace("@", "_"), float(v), now, 0) for name, v in final.items()])
        client.set_terminated(run, status)


def close_killed(client: Any) -> None:
    """End as KILLED every run still RUNNING whose process on this host is gone."""
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


def start_parent(tags: dict[str, str], params: dict[str, Any]) -> str | None:
    """The id of a new run for a whole pipeline run; give it to the stages as TOKENMILL_PARENT_RUN."""

    def work() -> str:
        client = _client()
        close_killed(client)
        run = client.create_run(_experiment(client), tags=_process_tags() | tags, run_name="pipeline").info.run_id
        _log_params(client, run, params)
        return run

    return _guarded("the pipeline's run", work)


def finish_parent(run: str | None, status: str) -> None:
    """End the pipeline's run."""
    if run:
        _guarded("the pipeline's run", lambda: _client().set_terminated(run, status))


def run_for_key(client: Any, key: str) -> str | None:
    """The id of the newest finished run with this stage key: the one that made the bytes, however they came here since."""
    found = client.search_runs(
        [_experiment(client)],
        f"tags.`stage.key` = '{key}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return found[0].info.run_id if found else None


def _locked(stage: str) -> dict[str, Any] | None:
    """What dvc.lock says of a stage."""
    path = Path("dvc.lock")
    return (read_yaml(path) or {}).get("stages", {}).get(stage) if path.exists() else None


def register_model(name: str, stage: str, path: str, md5: str, revision: str, metrics: dict[str, float]) -> str | None:
    """The version under which the model of a stage is registered, by reference: path, DVC md5, git revision, no bytes.

    The same md5 keeps its version, whoever registers it again. It points to the run that made the bytes, which dvc.lock
    leads to by the stage key, when this store knows it.
    """

    def work() -> str:
        client = _client()
        import mlflow

        known = {v.tags.get("dvc.md5"): v.version for v in client.search_model_versions(f"name = '{name}'")}
        if md5 in known:
            return str(known[md5])
        locked = _locked(stage)
        tags = {"dvc.md5": md5, "dvc.path": path, "git.revision": revision, "dvc.stage": stage}
        mlflow.set_tracking_uri(client.tracking_uri)
        model = mlflow.create_external_model(
            name,
            source_run_id=run_for_key(client, locked_key(locked)) if locked else None,
            tags=tags,
            params={key: repr(value) for key, value in metrics.items()},
            experiment_id=_experiment(client),
        )
        if name not in {m.name for m in client.search_registered_models(f"name = '{name}'")}:
            client.create_registered_model(name)
        return str(
            client.create_model_version(name, f"models:/{model.model_id}", tags=tags, model_id=model.model_id).version
        )

    return _guarded(f"registering {name}", work)

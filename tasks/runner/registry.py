"""Models of the pipeline in MLflow's registry, by reference: path, DVC md5 and git revision, and no bytes."""

from pathlib import Path
from typing import Any

from tasks.runner.key import locked_key
from tasks.runner.lock import lock_entry
from tasks.runner.names import lawful
from tasks.runner.tracking import connect, enabled, external_model, guarded, reason_of, run_for_key

CHAMPION = "champion"  # the alias of the registered model that is in use


def register_model(name: str, stage: str, path: str, md5: str, revision: str, metrics: dict[str, float]) -> str | None:
    """The version under which the model of a stage is registered, by reference: path, DVC md5, git revision, no bytes.

    The same md5 keeps its version, whoever registers it again. It points to the run that made the bytes, which dvc.lock
    leads to by the stage key, when this store knows it.
    """
    return guarded(f"registering {name}", lambda: _register(connect(), name, stage, path, md5, revision, metrics))


def _register(client: Any, name: str, stage: str, path: str, md5: str, revision: str, metrics: dict[str, float]) -> str:
    known = {v.tags.get("dvc.md5"): v.version for v in client.search_model_versions(f"name = '{name}'")}
    if md5 in known:
        _add_figures(client, name, str(known[md5]), metrics)
        return str(known[md5])
    locked = lock_entry(Path(), stage)
    tags = {"dvc.md5": md5, "dvc.path": path, "git.revision": revision, "dvc.stage": stage}
    figures = {lawful(key): repr(value) for key, value in metrics.items()}
    model = external_model(client, name, run_for_key(client, locked_key(locked)) if locked else None, tags, figures)
    if name not in {m.name for m in client.search_registered_models(f"name = '{name}'")}:
        client.create_registered_model(name)
    version = client.create_model_version(name, f"models:/{model}", tags=tags, model_id=model)
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
        client = connect()
        version = _register(client, name, stage, path, md5, revision, {})
        client.set_registered_model_alias(name, CHAMPION, version)
        if run:
            client.set_tag(run, "published", f"{name} version {version}")
        return version
    except Exception as error:
        raise RuntimeError(f"publish: MLflow refused: {reason_of(error)}") from error

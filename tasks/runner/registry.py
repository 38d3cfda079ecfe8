"""Models of the pipeline in MLflow's registry, by reference: path, DVC md5 and git revision, and no bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tasks.runner.key import locked_key
from tasks.runner.lock import lock_entry
from tasks.runner.names import lawful
from tasks.runner.tracking import connect, enabled, external_model, guarded, reason_of, run_for_key

CHAMPION = "champion"  # the alias of the registered model that is in use
CANDIDATE = "candidate"  # that of the one which was asked to be published last, whether it passed its gates or not
EVALUATION = "dvc.evaluation"  # tag: DVC's md5 of what was found of the model when it was published
GATES = "gates"  # tag: in a line what was asked of it, and whether it passed
Found = TypeVar("Found")


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


def publish_model(
    name: str, stage: str, path: str, md5: str, revision: str, run: str | None, tags: dict[str, str] | None = None
) -> str:
    """The version of this md5, which from now on is the one of the alias `champion`; the pipeline's run is tagged with it.
    tags: of the version, beside those that it has.

    It was asked for, so unlike all else here it raises RuntimeError when it cannot be done.
    """

    def publish(client: Any) -> str:
        version = _candidate(client, name, stage, path, md5, revision, tags or {})
        client.set_registered_model_alias(name, CHAMPION, version)
        if run:
            client.set_tag(run, "published", f"{name} version {version}")
        return version

    return _asked_for(publish)


def nominate_model(name: str, stage: str, path: str, md5: str, revision: str, tags: dict[str, str]) -> str:
    """The version of this md5, with these tags, under the alias `candidate` alone: it did not pass. Raises RuntimeError as
    `publish_model` does."""
    return _asked_for(lambda client: _candidate(client, name, stage, path, md5, revision, tags))


def champion_of(name: str) -> dict[str, str] | None:
    """The tags of the champion, None where there is none. Raises RuntimeError as `publish_model` does."""

    def tags(client: Any) -> dict[str, str] | None:
        known = {model.name: model for model in client.search_registered_models(f"name = '{name}'")}
        if name not in known or CHAMPION not in known[name].aliases:
            return None
        return dict(client.get_model_version_by_alias(name, CHAMPION).tags)

    return _asked_for(tags)


def _candidate(client: Any, name: str, stage: str, path: str, md5: str, revision: str, tags: dict[str, str]) -> str:
    version = _register(client, name, stage, path, md5, revision, {})
    if GATES not in tags and GATES in client.get_model_version(name, version).tags:
        client.delete_model_version_tag(name, version, GATES)  # of an earlier try, which says nothing of this one
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)
    client.set_registered_model_alias(name, CANDIDATE, version)
    return version


def _asked_for(act: Callable[[Any], Found]) -> Found:
    """What comes of it. Raises RuntimeError where nothing is recorded, or MLflow refuses."""
    if not enabled():
        raise RuntimeError("publish: TOKENMILL_TRACKING=off leaves no registry to publish in")
    try:
        return act(connect())
    except Exception as error:
        raise RuntimeError(f"publish: MLflow refused: {reason_of(error)}") from error

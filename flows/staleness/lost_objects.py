"""DVC's cache and what lies in data/: what the cache has lost and the project still has is put back, and not made anew."""

from pathlib import Path

from dvc.config import RemoteConfigError
from dvc.output import Output
from dvc.repo import Repo, lock_repo
from dvc.stage import PipelineStage

from flows.staleness.plan import Planned
from flows.staleness.whole_objects import put_objects_whole


def lost(repo: Repo, addresses: set[str]) -> list[PipelineStage]:
    """Stages of these addresses whose outputs lie in data/ as dvc.lock records them, while the cache lacks some of their
    bytes."""
    stages = [s for s in repo.index.stages if isinstance(s, PipelineStage) and s.addressing in addresses]
    return [s for s in stages if any(map(is_lost, outs := held(s))) and not any(map(is_another, outs))]


def held(stage: PipelineStage) -> list[Output]:
    """Outputs of a stage that DVC keeps in its cache."""
    return [out for out in stage.outs if out.use_cache and out.hash_info]


def is_lost(out: Output) -> bool:
    """Whether the cache lacks bytes of an output as dvc.lock records it."""
    return out.changed_cache()


def is_another(out: Output) -> bool:
    """Whether what lies in data/ is not what dvc.lock records."""
    return bool(out.workspace_status())


def put_back(root: Path, addresses: set[str]) -> str:
    """Commit to the cache again what it has lost of these stages; says so in a sentence, "" where nothing was lost.

    Without it DVC would run a stage again for bytes that are there.
    """
    if not addresses:
        return ""
    put_objects_whole()
    with Repo(str(root), _wait_for_lock=True) as repo, lock_repo(repo):
        stages = lost(repo, addresses)
        for stage in stages:
            for out in held(stage):
                out.commit(relink=False)
            repo.stage_cache.save(stage)
    names = ", ".join(sorted(stage.addressing for stage in stages))
    return f"DVC's cache had lost the outputs of {names}: put back from data/" if names else ""


def lacks_objects(plan: list[Planned]) -> set[str]:
    """The stages that the plan runs for a cache that lacks their outputs."""
    return {stage.address for stage in plan if any("not in cache" in change.words for change in stage.changes)}


def absent(repo: Repo, stage: PipelineStage) -> int:
    """How many files of a stage's outputs the default remote lacks; 0 for one that keeps versions, which cannot be asked."""
    try:
        remote = repo.cloud.get_remote_odb()
    except RemoteConfigError:
        return 0
    wanted = {oid for out in held(stage) for oid in objects_of(out)}
    return len(wanted - set(remote.oids_exist(list(wanted))))


def objects_of(out: Output) -> set[str]:
    """The names under which a cache or a remote keeps an output: its listing, and each of its files."""
    tree = out.get_obj()
    files = {info.value for _, _, info in tree} if out.hash_info.isdir and tree is not None else set()
    return {out.hash_info.value, *files}

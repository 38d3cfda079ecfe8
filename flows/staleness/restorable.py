"""Which stale stages will not run, because DVC's cache of runs has what they would make."""

from pathlib import Path

import networkx as nx
from dvc.repo import Repo
from dvc.stage import Stage
from dvc_data.hashfile.hash_info import HashInfo

from flows.staleness.declared import overlap


def restorable(root: Path, addresses: list[str]) -> set[str]:
    """Addresses of stages that DVC's cache brings back as things are now, and as those before them will have left them;
    params.yaml must be written. What is not in the cache whole is not among them."""
    found, left = set[str](), dict[str, HashInfo | None]()
    with Repo(str(root)) as repo:
        for stage in nx.dfs_postorder_nodes(repo.index.graph):
            if stage.addressing in addresses:
                outs = _cached(repo, stage, left)
                left |= outs or {str(out.fs_path): None for out in stage.outs}
                found |= {stage.addressing} if outs else set()
    return found


def _cached(repo: Repo, stage: Stage, left: dict[str, HashInfo | None]) -> dict[str, HashInfo | None]:
    """What the cache has of each output of the stage; nothing where it has not all of it. left: what stages before it leave."""
    for dep in stage.deps:
        path = str(dep.fs_path)
        if left.get(path):
            dep.hash_info = left[path]
        elif any(overlap(path, out) for out in left) or not dep.exists:
            return {}
        else:
            dep.save()
    entry = repo.stage_cache._load(stage)
    if not entry:
        return {}
    cached = repo.stage_cache._create_stage(entry, wdir=stage.wdir)
    return {str(out.fs_path): out.hash_info for out in cached.outs} if cached.outs_cached() else {}

"""What a stage is by dvc.yaml and by an entry of dvc.lock, so that the two can be held to each other without running it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo
from pydantic import BaseModel, ConfigDict


class Declared(BaseModel):
    """A stage's command, its dependencies and outputs by path, and the parameters that it reads by name; all sorted."""

    model_config = ConfigDict(frozen=True)

    cmd: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]

    @classmethod
    def of(cls, cmd: str, deps: Iterable[str], params: Iterable[str], outs: Iterable[str]) -> Self:
        """Declaration with its dependencies, parameters and outputs sorted."""
        return cls(cmd=cmd, deps=tuple(sorted(deps)), params=tuple(sorted(params)), outs=tuple(sorted(outs)))

    @classmethod
    def locked(cls, entry: dict[str, Any]) -> Self:
        """What an entry of dvc.lock says. Raises ValueError for one that is none."""
        try:
            deps, outs = ([item["path"] for item in entry.get(kind, [])] for kind in ("deps", "outs"))
            return cls.of(
                entry["cmd"], deps, (name for read in entry.get("params", {}).values() for name in read), outs
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no entry of dvc.lock: {type(error).__name__} {error}") from None

    def difference(self, other: Self) -> str:
        """What of this stage the other has not or has otherwise, in words; "" where they are the same."""
        if self.cmd != other.cmd:
            return f"its cmd is {self.cmd!r}, not {other.cmd!r}"
        for kind in ("deps", "params", "outs"):
            mine, others = set(getattr(self, kind)), set(getattr(other, kind))
            if mine != others:
                more, less = sorted(mine - others), sorted(others - mine)
                found = [*(f"{name!r} more" for name in more), *(f"{name!r} less" for name in less)]
                return f"its {kind} differ: {', '.join(found)}"
        return ""


def stage_declarations(root: Path) -> dict[str, Declared]:
    """Every stage of root/dvc.yaml by its address, as DVC reads it with root/params.yaml. Raises ValueError, of one line, where
    it cannot."""
    try:
        with Repo(str(root)) as repo:
            stages = [stage for stage in repo.index.stages if getattr(stage, "name", None)]
            return {stage.name: _of(stage) for stage in stages}
    except DvcException as error:
        raise ValueError(f"dvc.yaml with params.yaml: {' '.join(f'{error}; {error.__cause__}'.split())}") from None


def _of(stage: Any) -> Declared:
    read = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
    given = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]
    deps, outs = ([item.def_path for item in items] for items in (given, stage.outs))
    return Declared.of(stage.cmd, deps, (name for dep in read for name in dep.params), outs)


def stage_of(repo: Repo, address: str) -> Any:
    """DVC's object of a stage; DVC's own look-up by address depends on the folder that the process stands in."""
    [found] = [stage for stage in repo.index.stages if getattr(stage, "name", None) == address]
    return found


def overlap(one: str, other: str) -> bool:
    """Whether the paths are the same or one lies in the other."""
    return Path(one) == Path(other) or Path(one) in Path(other).parents or Path(other) in Path(one).parents

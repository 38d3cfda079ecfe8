"""What travels between the machine that runs a pipeline and an agent: the order of one stage, and the answer to it."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from flows.staleness.declared import Declared, overlap, stage_declarations
from flows.staleness.lockfile import part_of
from lm.inputs.hashed import read_ignored
from tasks.core.yaml import parse_yaml
from tasks.runner.git import git
from tasks.runner.key import path_md5
from tasks.runner.lock import Entry, entries_of, md5s
from tasks.runner.record import FLOW_RUN, PARENT_RUN
from tasks.runner.recorded import is_true
from tasks.runner.settings import PROGRESS

# Execution settings of the stage that the coordinator decides; all others are the agent's own.
TRAVELS = (FLOW_RUN, PARENT_RUN, PROGRESS.name)
# What decides a stage beside its own dependencies and params.
GRAPH_FILES = ["dvc.yaml", ".dvcignore"]


class Order(BaseModel):
    """One stage to be brought up to date elsewhere.

    revision: the commit of the code. params, lock: the texts of params.yaml, and of a dvc.lock with the stages that this one
    depends on; as texts, since YAML tells numbers apart that JSON does not. declared: what dvc.yaml says of the stage. inputs:
    md5 of each dependency that no stage makes, by path. environment: the settings of TRAVELS that the stage is to have.
    """

    model_config = ConfigDict(frozen=True)

    address: str
    revision: str = Field(pattern="^[0-9a-f]{40,64}$")
    params: str
    lock: str
    declared: Declared
    inputs: dict[str, str]
    force: bool = False
    environment: dict[Annotated[str, Field(pattern=f"^({'|'.join(TRAVELS)})$")], str] = {}

    def dependencies(self) -> dict[str, str]:
        """md5 of every dependency that the stage must be made of, and of outputs of the same stages that it does not read."""
        made = [md5s(entry, "outs") for entry in entries_of(self.lock).values()]
        return {path: md5 for outs in made for path, md5 in outs.items()} | self.inputs

    def held_to(self, graph: dict[str, Declared], committed: dict[str, Declared]) -> None:
        """Raises ValueError, of one line, unless the order is one of a stage of this graph, which is dvc.yaml with the order's
        params: command, dependencies, parameters and outputs are the graph's, and so are those of each entry of its lock; the
        lock has the stages before it and no other, and the inputs are all that no stage makes, inside the project.

        committed: the graph with the params of the revision, which have the same command: what a shell runs is not the order's.
        """
        revision = f"dvc.yaml of revision {self.revision[:12]}"
        if self.address not in graph or self.address not in committed:
            raise ValueError(f"{self.address}: {revision} has no such stage")
        if (cmd := committed[self.address].cmd) != graph[self.address].cmd:
            raise ValueError(f"{self.address}: the order's params change the cmd that {revision} has: {cmd!r}")
        before, given = sources(graph, self.address)
        entries = {address: Declared.locked(entry) for address, entry in entries_of(self.lock).items()}
        for what, names, wanted in (("lock", set(entries), set(before)), ("inputs", set(self.inputs), set(given))):
            if names != wanted:
                raise ValueError(
                    f"{self.address}: the order's {what} has {sorted(names - wanted)} more and {sorted(wanted - names)} less "
                    f"than {revision} asks for"
                )
        for address, found in {self.address: self.declared, **entries}.items():
            if different := found.difference(graph[address]):
                raise ValueError(f"{self.address}: the order differs from {revision} in {address}: {different}")
        if outside := [dep for dep in given if not is_inside_project(dep)]:
            raise ValueError(f"{self.address}: the order reads {', '.join(outside)}, outside the project")


class Answer(BaseModel):
    """How the stage ended: exit code and last lines.

    entry: the stage's entry of dvc.lock, as YAML. files: the text of each output that DVC does not cache, and of the timings.
    """

    model_config = ConfigDict(frozen=True)

    code: int
    tail: list[str] = []
    entry: str = ""
    files: dict[str, str] = {}

    def checked_entry(self, order: Order) -> Entry:
        """The entry, if it is one of this order's stage. Raises ValueError naming what of it is not as ordered."""
        entry, expected = parse_yaml(self.entry), order.dependencies()
        if different := Declared.locked(entry).difference(order.declared):
            raise ValueError(f"{order.address}: the agent's answer is of another stage: {different}")
        other = [path for path, md5 in md5s(entry, "deps").items() if expected.get(path, md5) != md5]
        if other:
            raise ValueError(f"{order.address}: the agent made it of another {', '.join(other)}")
        if not is_true(entry):
            raise ValueError(f"{order.address}: the agent's DVC recorded it as made of other than the stage read")
        return entry


def make_order(root: Path, address: str, force: bool, environment: dict[str, str]) -> Order:
    """The order of a stage as root has it now. Raises ValueError for what cannot be sent: code or inputs that are not
    committed, and inputs outside the project."""
    graph = stage_declarations(root)
    before, given = sources(graph, address)
    if outside := [dep for dep in given if not is_inside_project(dep)]:
        raise ValueError(f"{address}: reads {', '.join(outside)}, outside the project, which an agent cannot get")
    revision = commit_of_paths(root, address, [*GRAPH_FILES, *given])
    ignored = read_ignored(root)
    inputs = {dep: path_md5(Path(ignored.root, dep), ignored) for dep in given}
    return Order(
        address=address,
        revision=revision,
        params=(root / "params.yaml").read_text(),
        lock=part_of(root, before),
        declared=graph[address],
        inputs=inputs,
        force=force,
        environment=environment,
    )


def sources(graph: dict[str, Declared], address: str) -> tuple[list[str], list[str]]:
    """The stages that make what this one reads, and the dependencies that no stage makes."""
    makers = {out: other for other, declared in graph.items() for out in declared.outs}
    deps = graph[address].deps
    before = dict.fromkeys(maker for dep in deps for out, maker in makers.items() if overlap(dep, out))
    return list(before), [dep for dep in deps if not any(overlap(dep, out) for out in makers)]


def commit_of_paths(root: Path, address: str, paths: list[str]) -> str:
    """The commit that holds these paths as they are now. Raises ValueError naming those that differ from it."""
    revision = git(root, "rev-parse", "HEAD")
    changed = [line.split(maxsplit=1)[1] for line in git(root, "status", "--porcelain", "--", *paths).splitlines()]
    if changed:
        shown = ", ".join(changed[:5]) + (", ..." if len(changed) > 5 else "")
        raise ValueError(
            f"{address}: an agent runs committed code, and {shown} is not as in {revision[:12]}: commit and push"
        )
    return revision


def is_inside_project(path: str) -> bool:
    """Whether a path, as dvc.yaml gives it, stays inside the project."""
    return not Path(path).is_absolute() and ".." not in Path(path).parts

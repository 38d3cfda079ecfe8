"""What is found out before a run begins: parameters, plan, and what may run. The command finds it out before it imports
Prefect, and hands it to the flow; a run that the form starts finds it out itself."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.params.compose import check_targets, compose, write
from flows.params.outside import reach_inputs
from flows.staleness.heal import heal_lock
from flows.staleness.lost_objects import lacks_objects, recommit_lost_objects
from flows.staleness.plan import PlannedStage, make_plan, may_run
from flows.staleness.rwlock import await_free
from tasks.core.config import ConfigError, read_params


@dataclass(frozen=True)
class RunRequest:
    """What a run was asked for."""

    preset: str
    overrides: list[str]
    targets: list[str]
    force: bool


@dataclass(frozen=True)
class Prepared:
    """params: as they are now in params.yaml; before: as they were there. todo: the stages of the plan that may run. said: the
    lines that were said on the way."""

    params: dict[str, Any]
    before: dict[str, Any]
    plan: list[PlannedStage]
    todo: list[PlannedStage]
    said: list[str] = field(default_factory=list)


_handed: list[Prepared] = []


def prepare(
    root: Path, asked: RunRequest, check: Callable[[Path, dict[str, Any]], None], say: Callable[[str], None]
) -> Prepared:
    """Compose, check and write params.yaml, mend what a killed run left, and plan. Raises ConfigError before it writes."""
    params, before = compose(root, asked.preset, asked.overrides), params_of(root)
    reach_inputs(root, params)
    check_targets(root, params, asked.targets)
    if params != before:
        check(root, params)
    said = write(root, params)
    for line in said:
        say(line)
    if healed := heal_lock(root):
        say(healed)
    await_free(root, say)
    plan = make_plan(root, asked.targets)
    if mended := recommit_lost_objects(root, lacks_objects(plan)):
        say(mended)
        plan = make_plan(root, asked.targets)
    todo = plan if asked.force else may_run(plan)
    if todo and params == before:
        check(root, params)
    return Prepared(params, before, plan, todo, said)


def params_of(root: Path) -> dict[str, Any]:
    """params.yaml as it stands before a run writes it; nothing where it is missing or cannot be read."""
    try:
        return read_params(root / "params.yaml")
    except ConfigError:
        return {}


def hand_over(prepared: Prepared) -> None:
    """Give the next flow of this process what has been found out already."""
    _handed.append(prepared)


def take_handed_over() -> Prepared | None:
    """What was handed over, once; None when nothing was."""
    return _handed.pop() if _handed else None

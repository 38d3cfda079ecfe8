"""The pipeline as a Prefect flow: dvc.yaml's graph, one task run a stage. It knows no stage by name."""

import os
import subprocess
import threading
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed, State
from prefect.task_runners import ThreadPoolTaskRunner

from flows import form
from flows.artifacts import params_of, show_plan, show_results
from flows.bars import Bars
from flows.cache import lacks_objects, put_back
from flows.environment import ROOT, environment
from flows.finish import finish
from flows.heal import heal_lock
from flows.in_use import await_free
from flows.one_run import one_run
from flows.params import CURRENT, check, check_targets, compose, write
from flows.plan import Planned, make_plan, may_run
from flows.pools import run_anywhere
from flows.preflight.start import preflight
from flows.publish import conclude
from flows.stages import TRANSIENT_CODES, stop_all
from tasks.core.process import stages_at_once
from tasks.core.tracking import FLOW_RUN, PARENT_RUN, finish_parent, start_parent


class StageFailed(Exception):
    """A stage that ended badly; the message carries the last lines it printed."""

    def __init__(self, address: str, code: int, tail: list[str]) -> None:
        super().__init__(f"{address} ended with {code}:\n" + "\n".join(tail))
        self.code = code


def is_transient(_task: object, _run: object, state: State) -> bool:
    """Whether a failed stage is worth another try: it was killed, not wrong."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageFailed) and error.code in TRANSIENT_CODES


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=is_transient)
def stage(
    root: Path, planned: Planned, force: bool, slots: threading.Semaphore, bars: Bars, extra: dict[str, str]
) -> State:
    """One stage by `dvc repro --single-item`, here or by an agent; Completed as Ran, Restored or Unchanged."""
    logger = get_run_logger()

    def say(line: str) -> None:
        logger.info(line)
        bars.line(planned.address, line)

    ended = run_anywhere(root, planned, force, slots, say, extra)
    if ended.code:
        bars.ended(planned.address, f"failed with {ended.code}")
        raise StageFailed(planned.address, ended.code, ended.tail)
    bars.ended(planned.address, ended.how.lower())
    return Completed(name=ended.how, message=f"{planned.address}: {ended.how.lower()}")


def submit(root: Path, plan: list[Planned], force: bool, extra: dict[str, str]) -> dict[str, PrefectFuture]:
    """A task run for each stage, each waiting for those it depends on."""
    slots, bars = threading.Semaphore(stages_at_once()), Bars()
    futures: dict[str, PrefectFuture] = {}
    for planned in plan:
        tags = [f"gpus:{planned.meta['gpus']}"] if planned.meta.get("gpus") else []
        named = stage.with_options(
            name=planned.address, task_run_name=planned.address, tags=tags, retries=int(planned.meta.get("retries", 1))
        )
        before = [futures[address] for address in planned.after if address in futures]
        futures[planned.address] = named.submit(root, planned, force, slots, bars, extra, wait_for=before)  # type: ignore[call-overload]
    return futures


@flow(
    name="pipeline",
    task_runner=ThreadPoolTaskRunner(max_workers=256),  # type: ignore[arg-type]
    persist_result=False,
    validate_parameters=True,
)
def pipeline(
    preset: form.Preset = CURRENT,
    targets: form.Targets = [],  # noqa: B006 - Prefect shows it as the form's default and never changes it
    force: form.Force = False,
    seed: form.Seed = None,
    where: form.Where = form.HERE,
    publish: form.Publish = "no",
    overrides: form.Overrides = [],  # noqa: B006
    sections: form.Sections = {},  # noqa: B006
) -> list[str]:
    """Bring the pipeline up to date and return the stages that ran. Raises RuntimeError naming those that failed."""
    root = Path(os.environ.get("TOKENMILL_ROOT", ROOT))
    os.environ.update(environment(root))
    os.chdir(root)
    seeds = [] if seed is None else [f"seed={seed}"]
    with one_run(root):
        return bring_up_to_date(
            root, preset, targets, force, where, publish, [*form.as_overrides(sections), *seeds, *overrides]
        )


def bring_up_to_date(
    root: Path, preset: str, targets: list[str], force: bool, where: str, publish: str, overrides: list[str]
) -> list[str]:
    """As pipeline, with everything that is to be changed among the overrides."""
    before = params_of(root)
    params = compose(root, preset, overrides)
    check(root, params)
    check_targets(root, targets)
    form.choose_where(where)
    for line in write(root, params):
        get_run_logger().info(line)
    if healed := heal_lock(root):
        get_run_logger().warning(healed)
    await_free(root, get_run_logger().info)
    plan = make_plan(root, targets)
    if mended := put_back(root, lacks_objects(plan)):
        get_run_logger().warning(mended)
        plan = make_plan(root, targets)
    show_plan(plan, before, params)
    todo = plan if force else may_run(plan)
    preflight(root, params, todo)
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    ).stdout.strip()
    this_run = str(flow_run.get_id() or "")
    parent = start_parent({"preset": preset, "targets": " ".join(targets), "prefect.flow_run_id": this_run}, params)
    extra = {
        FLOW_RUN: this_run,
        "TOKENMILL_PROGRESS": "lines",
        **({PARENT_RUN: parent} if parent else {}),
    }
    status = "KILLED"
    try:
        futures = submit(root, todo, force, extra)
        for future in futures.values():
            future.wait()
        failed = {a: f.state for a, f in futures.items() if not f.state.is_completed()}
        status = "FAILED" if failed else "FINISHED"
    except BaseException:
        stop_all()
        raise
    finally:
        finish_parent(parent, status)
    if failed:
        raise RuntimeError(explain(failed))
    page = finish(root, revision)
    if page:
        conclude(root, publish, revision, parent, about=show_results(root, page, parent))
    return [a for a, f in futures.items() if f.state.name == "Ran"]


def explain(failed: dict[str, State]) -> str:
    """What failed with its last words, and what was not begun for it."""
    lines = []
    for address, state in failed.items():
        if state.is_failed() or state.is_crashed():
            lines.append(str(state.result(raise_on_failure=False)))
        else:
            lines.append(f"{address} was not begun: a stage before it failed")
    return "\n".join(lines)

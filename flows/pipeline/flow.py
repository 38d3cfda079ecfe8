"""The pipeline as a Prefect flow: dvc.yaml's graph, one task run a stage. It knows no stage by name."""

import gc
import os
import threading
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.environment import ROOT, environment
from flows.params.compose import CURRENT, check
from flows.pipeline import form
from flows.pipeline.artifacts import metrics_by_model, show_plan, show_results
from flows.pipeline.finish import finish, record_run
from flows.pipeline.naming import run_name
from flows.pipeline.prepare import RunRequest, prepare, take_handed_over
from flows.pipeline.progress_bars import Bars
from flows.pipeline.publish import conclude
from flows.pipeline.run_lock import LABEL, checkout, one_run
from flows.preflight.start import preflight
from flows.stage.dvc_forks import dvc_fork_servers
from flows.stage.pools import run_anywhere
from flows.stage.process import TRANSIENT_CODES, stop_all, stopping
from flows.staleness.plan import PlannedStage
from tasks.core.config import ConfigError
from tasks.runner.git import revision as revision_of
from tasks.runner.locks import stages_at_once
from tasks.runner.record import FLOW_RUN, PARENT_RUN
from tasks.runner.tracking import finish_parent, record_results, start_parent
from tasks.runner.tracking_socket import recorder


class StageFailed(Exception):
    """A stage that ended badly; the message carries the last lines it printed."""

    def __init__(self, address: str, code: int, tail: list[str]) -> None:
        super().__init__(f"{address} ended with {code}:\n" + "\n".join(tail))
        self.code = code


def is_transient(_task: object, _run: object, state: State) -> bool:
    """Whether a failed stage is worth another try: it was killed, not wrong, and not because the run was stopped."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageFailed) and error.code in TRANSIENT_CODES and not stopping()


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=is_transient)
def stage(
    root: Path, planned: PlannedStage, force: bool, slots: threading.Semaphore, bars: Bars, extra: dict[str, str]
) -> State:
    """One stage by `dvc repro --single-item`, here or by an agent; Completed as Ran, Restored or Unchanged, Cancelled where the
    run was stopped in it, else Failed: as a state, since an exception would be logged with a traceback that tells nothing."""
    logger = get_run_logger()

    def say(line: str) -> None:
        if kept := bars.line(planned.address, line):
            logger.info(kept)

    ended = run_anywhere(root, planned, force, slots, say, extra)
    if ended.code and stopping():
        bars.ended(planned.address, "stopped")
        return Cancelled(message=f"{planned.address}: stopped; the next run goes on from what it has saved")
    if ended.code:
        bars.ended(planned.address, f"failed with {ended.code}")
        error = StageFailed(planned.address, ended.code, ended.tail)
        return Failed(message=str(error), data=error)
    bars.ended(planned.address, ended.how.lower())
    return Completed(name=ended.how, message=f"{planned.address}: {ended.how.lower()}")


def submit(root: Path, plan: list[PlannedStage], force: bool, extra: dict[str, str]) -> dict[str, PrefectFuture]:
    """A task run for each stage, each waiting for those it depends on."""
    slots, bars = threading.Semaphore(stages_at_once()), Bars()
    futures: dict[str, PrefectFuture] = {}
    for planned in plan:
        tags = [f"gpus:{planned.meta['gpus']}"] if planned.meta.get("gpus") else []
        options = stage.with_options(
            name=planned.address, task_run_name=planned.address, tags=tags, retries=int(planned.meta.get("retries", 1))
        )
        before = [futures[address] for address in planned.after if address in futures]
        futures[planned.address] = options.submit(root, planned, force, slots, bars, extra, wait_for=before)  # type: ignore[call-overload]
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
) -> list[str] | State:
    """Bring the pipeline up to date and return the stages that ran. Raises RuntimeError naming those that failed, ConfigError
    for a mistake in what was asked for, Prefect's CancelledRun when it was stopped; in Prefect each is a state of one line."""
    root = Path(os.environ.get("TOKENMILL_ROOT", ROOT))
    os.environ.update(environment(root))
    os.chdir(root)
    seeds = [] if seed is None else [f"seed={seed}"]
    asked = RunRequest(preset, [*form.as_overrides(sections), *seeds, *overrides], targets, force)
    with one_run(root):
        try:
            return bring_up_to_date(root, asked, where, publish)
        except (RuntimeError, ConfigError) as error:
            return Failed(message=str(error), data=error)
        except Halted as error:
            return Cancelled(message=str(error))


class Halted(Exception):
    """The run was cancelled, or Ctrl-C was pressed; the message says in which stage, and how to go on."""


def bring_up_to_date(root: Path, asked: RunRequest, where: str, publish: str) -> list[str]:
    """Bring the pipeline up to date and return the stages that ran. All that is to be changed is among the overrides of
    `asked`. Raises Halted when it is told to stop, else what pipeline raises."""
    logger = get_run_logger()
    form.choose_where(where)
    handed = take_handed_over()
    for line in handed.said if handed else []:
        logger.info(line.strip())
    prepared = handed or prepare(root, asked, check, logger.info)
    params, todo = prepared.params, prepared.todo
    preset, name = run_name(root, params, asked.preset)
    introduce(root, name)
    show_plan(prepared.plan, prepared.before, params)
    if not handed:
        preflight(root, params, todo, lambda line: logger.info(f"preflight | {line}"))
    revision = revision_of(root)
    this_run = str(flow_run.get_id() or "")
    tags = {"kind": "pipeline", "preset": preset, "targets": " ".join(asked.targets), "prefect.flow_run_id": this_run}
    parent = start_parent(tags, params, name)
    gc.freeze()  # Prefect, DVC and mlflow stay: else the collector walks them at every turn, 1 s in a run of five stages
    status = "KILLED"
    futures: dict[str, PrefectFuture] = {}
    with recorder() as recorded, dvc_fork_servers(root, [stage.address for stage in todo], params):
        extra = {
            FLOW_RUN: this_run,
            "TOKENMILL_PROGRESS": "lines",
            **({PARENT_RUN: parent} if parent else {}),
            **recorded,
        }
        try:
            futures = submit(root, todo, asked.force, extra)
            for future in futures.values():
                future.wait()
            failed = {a: f.state for a, f in futures.items() if not f.state.is_completed()}
            status = "FAILED" if failed else "FINISHED"
        except (TerminationSignal, KeyboardInterrupt):
            stop_all()
            for future in futures.values():
                future.wait()
            stopped = [address for address, future in futures.items() if future.state.is_cancelled()]
            place = f" in {', '.join(stopped)}" if stopped else ""
            record_run(root, name, f"was stopped{place}")
            raise Halted(f"stopped{place}; run again to go on: what was finished is kept") from None
        except BaseException:
            stop_all()
            raise
        finally:
            finish_parent(parent, status)
    if failed:
        broken = [address for address, state in failed.items() if state.is_failed() or state.is_crashed()]
        record_run(root, name, f"failed in {', '.join(broken) or 'its stages'}")
        raise RuntimeError(explain(failed))
    page = finish(root, revision, name, [stage.address for stage in prepared.plan] if asked.targets else None)
    if page:
        record_results(parent, metrics_by_model(root), page)
        conclude(root, publish, revision, parent, about=show_results(root, page, parent))
    return [a for a, f in futures.items() if f.state.name == "Ran"]


def introduce(root: Path, name: str) -> None:
    """Call the flow run by this name, and say whose it is; a server that refuses shows the name that it made up."""
    with suppress(Exception), get_client(sync_client=True) as client:
        this_run = UUID(str(flow_run.get_id()))
        client.update_flow_run(this_run, name=name)
        client.update_flow_run_labels(this_run, {LABEL: checkout(root)})


def explain(failed: dict[str, State]) -> str:
    """What failed with its last words, and what was not begun for it."""
    lines = []
    for address, state in failed.items():
        if state.is_failed() or state.is_crashed():
            lines.append(str(state.result(raise_on_failure=False)))
        else:
            lines.append(f"{address} was not begun: a stage before it failed")
    return "\n".join(lines)

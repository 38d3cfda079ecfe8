"""One run of a study: the stages up to its measure, with the run's parameters, in a variant of this checkout."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from flows.arena.defaults import defaults
from flows.arena.fits.seconds import copies_per_token
from flows.arena.outcomes import Outcome
from flows.arena.study import Study
from flows.forecast.forecasts import step_of, works_of
from flows.params.compose import compose, write
from flows.params.outside import reach_inputs
from flows.stage.process import run_stage
from flows.staleness.heal import heal_lock
from flows.staleness.lockfile import keep_only
from flows.staleness.rwlock import await_free
from flows.workspaces.variants import surroundings
from lm.settings import THREADS
from lm.training.flops import flops_of_steps, mean_flops_per_token
from tasks.about.training import is_training_stage as can_train
from tasks.about.work import Step, Work
from tasks.core.config import ConfigError
from tasks.report.read import Stage, read_stages
from tasks.runner.graph import Entry, read_graph, upstream, with_upstream
from tasks.runner.key import locked_key
from tasks.runner.lock import locked_in, md5s
from tasks.runner.settings import WORKERS
from tasks.runner.timings import restore_timings

RATE = "learning_rate"
BAD_CONFIG = 2
# `pretrain: step 12: the loss is nan ...`, in the words of lm/training/guard.py, and of none that find parameters wrong
DIVERGED = re.compile(r": step \d+: the (loss is|mean loss of \d+ steps is) ")


class Failed(Exception):
    """A run that ended badly, and not by diverging; the message has its last lines."""


@dataclass(frozen=True)
class Job:
    """A run that is asked for: of an arm, with these tuned parameters and this seed of the pipeline."""

    arm: str
    tuned: dict[str, float]
    seed: int
    assignments: list[str]


def run(
    root: Path,
    folder: Path,
    study: Study,
    job: Job,
    digest: str,
    threads: int,
    at_once: int,
    recorded: dict[str, str],
    say: Callable[[str], None],
    md5_of: Callable[[str], str],
) -> Outcome:
    """Reproduce the stage of the measure in this variant of the checkout, and read what came of it. recorded: the environment
    of a recorder. md5_of: of a file or folder, by which the run is known. Raises Failed, where it read another one too."""
    params = compose(folder, study.preset, job.assignments)
    reach_inputs(folder, params)
    write(folder, params)
    heal_lock(folder)  # what a killed study left
    await_free(folder, say)
    stage, metric = study.stage_and_metric
    graph = read_graph(folder)
    stages = with_upstream(graph, [stage])
    keep_only(folder, stages)
    extra = {**surroundings(root, folder), **recorded, THREADS.name: str(threads), WORKERS.name: str(at_once)}
    ended = run_stage(folder, stage, False, say, extra, alone=False)
    if ended.code:
        last = next((line for line in reversed(ended.tail) if DIVERGED.search(line)), "")
        if last:
            return Outcome(digest, job.arm, job.tuned, job.seed, None, why=last)
        raise Failed("\n".join(ended.tail[-5:]))
    locked = locked_in(folder) or {}
    if others := read_otherwise(graph, stages, locked, md5_of):
        raise Failed(
            f"{', '.join(others)}: not in {folder} as in this checkout, so that the run is another than was asked for: "
            f"make variant NAME={folder.name} REMOVE=1, and begin again"
        )
    for address in stages:
        restore_timings(folder, address, locked_key(locked[address]))
    found = {each.name: each for each in read_stages(folder)}
    if metric not in found[stage].metrics:
        raise ConfigError(f"measure: {stage} has no {metric!r} (it has: {', '.join(sorted(found[stage].metrics))})")
    seen = [
        md5s(locked.get(name), "outs").get(f"data/{name}", "")
        for name in graph
        if name in upstream(graph)[defaults().trained]
    ]
    data = sha256(" ".join(seen).encode()).hexdigest()[:12]
    trained = found[trains(study.room, {name: bool(each.curves) for name, each in found.items()})]
    (work,) = works_of(params, [trained.name]).values()
    measured = found[stage].metrics
    return outcome_of(job, digest, measured[metric], trained, work, data, measured.get("size_bytes", 0.0))


def read_otherwise(
    graph: Mapping[str, Entry], stages: Sequence[str], locked: Mapping[str, Any], md5_of: Callable[[str], str]
) -> list[str]:
    """What these stages read, and none made, that DVC recorded otherwise: as what a killed study left in a variant may be."""
    made = {out for entry in graph.values() for out in entry.outs}
    read = {path: md5 for address in stages for path, md5 in md5s(locked[address], "deps").items() if path not in made}
    return sorted(path for path, md5 in read.items() if md5 != md5_of(path))


def watched(room: str) -> str:
    """What of a room decides which training a study watches, by the rooms alone: studies in which it is the same have their
    runs in common."""
    stage = room.partition(".")[0]
    return stage if can_train(stage) else defaults().trained


def trains(room: str, has_curves: dict[str, bool]) -> str:
    """The stage whose training a study watches: that of the room, or the first."""
    stage = room.partition(".")[0]
    return stage if has_curves.get(stage) else defaults().trained


def outcome_of(job: Job, digest: str, value: float, trained: Stage, work: Work, data: str, size: float) -> Outcome:
    """What a run says of itself. work: of the trained stage, whose tokens and FLOP follow from the parameters alone."""
    step = step_of(work)
    points = trained.curves.get("bits_per_byte") or trained.curves["loss"]
    rates = [rate for _, rate in trained.curves.get(RATE, [])] or [0.0]
    made = [number + 1 for number, _ in points]
    ends = work.tokens_after(made)
    return Outcome(
        digest, job.arm, job.tuned, job.seed, value,
        seconds=work.tokens / trained.timings["tokens_per_second"] if trained.timings else 0.0,
        flop=flop_of(step, work),
        tokens=round(work.tokens),
        parameters=step.model.num_parameters(),
        layers=step.model.config.layers,
        tokens_a_step=round(work.tokens / work.steps),
        copies=copies_of(step),
        size_bytes=round(size),
        data=data,
        curve=tuple((end, loss) for end, (_, loss) in zip(ends, points, strict=True)),
        rates=(max(rates), rates[-1]),
        decays_from=work.tokens_after([decays_from(rates)])[0],
        grows=step.growth is not None,
        flops=flops_after(step, work, made),
    )  # fmt: skip


def flop_of(step: Step, work: Work) -> float:
    """FLOP of the whole run: of the model that learns, forward and backward, and of the passes of those that do not."""
    own = mean_flops_per_token(step.model, step.batch.length, step.growth, work.steps)
    return work.tokens * (own + step.frozen_part * step.frozen_flops)


def flops_after(step: Step, work: Work, counts: Sequence[float]) -> tuple[float, ...]:
    """FLOP of as many of the first steps as each count says, where the model grows within the run or a frozen one reads in a
    part of it alone; else empty."""
    if step.growth is None and step.frozen_part == 1:
        return ()
    after, read = work.tokens_after(counts), step.frozen_part * work.tokens
    theirs = step.frozen_flops * np.minimum(after, read)
    if step.growth is None:
        own = np.array(after) * mean_flops_per_token(step.model, step.batch.length, None, work.steps)
        return tuple((own + theirs).tolist())
    each = flops_of_steps(step.model, step.batch.length, step.growth, work.steps)
    ends = work.tokens / work.steps * np.cumsum((0.0, *each))
    return tuple((np.interp(counts, np.arange(len(ends)), ends) + theirs).tolist())


def copies_of(step: Step) -> float:
    """Numbers that a token of the step moves through memory in matrix products, forward."""
    shape, batch = step.model.config, step.batch
    vocabulary = step.model.head_weight.shape[0]
    return copies_per_token(
        shape.layers, shape.width, shape.heads, shape.ffn_width, vocabulary, batch.length, batch.rows
    )


def decays_from(rates: list[float]) -> int:
    """Steps after which the rate is below its peak for good; 0 where the last step has it."""
    last = max(number for number, rate in enumerate(rates) if rate >= 0.999 * max(rates))
    return 0 if last == len(rates) - 1 else last + 1

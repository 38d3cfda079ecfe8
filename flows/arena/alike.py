"""What no race could tell apart: arms that are one run, and a measure that there is not. Found before any arm runs."""

from difflib import get_close_matches

from flows.arena.checkout import Checkout
from flows.arena.runs import Job
from flows.arena.study import Study
from lm.config import ConfigError
from tasks.runner.graph import graph_of


def refuse_measure(checkout: Checkout, study: Study) -> None:
    """Raises ConfigError where an arm has no stage to be measured by."""
    stage, _ = study.stage_and_metric
    for arm in study.arms:
        graph = graph_of(checkout.root, checkout.compose(study.preset, study.assignments(arm, {}, study.seed)))
        if stage not in graph:
            near = get_close_matches(stage, graph, n=1, cutoff=0.6)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"measure: no stage {stage!r} with these parameters{meant} (stages: {', '.join(graph)})")


def refuse_alike(checkout: Checkout, study: Study, name: str) -> None:
    """Raises ConfigError where an arm's run is the baseline's up to the measure, and it is not tuned otherwise."""
    keys = {
        arm: checkout.key_of(study, name, Job(arm, {}, study.seed, study.assignments(arm, {}, study.seed)), 1)
        for arm in study.arms
    }
    base = study.baseline
    same = [
        arm for arm in study.arms if arm != base and (keys[arm], study.ranges(arm)) == (keys[base], study.ranges(base))
    ]
    if not same:
        return
    what = f"arms: {', '.join(same)}: up to {study.measure} the same run as the baseline, {base}"
    if len(same) == len(study.arms) - 1:
        raise ConfigError(f"{what}: measure what depends on {study.room} (measure, or MEASURE=), or let arms differ")
    raise ConfigError(f"{what}: leave {'it' if len(same) == 1 else 'them'} out, or set something else")

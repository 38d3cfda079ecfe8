"""What no race could tell apart: arms that are one run, and a measure that there is not. Found before any arm runs."""

from collections import defaultdict
from difflib import get_close_matches
from json import dumps

from flows.arena.checkout import Checkout
from flows.arena.runs import Job
from flows.arena.study import Study
from lm.config import ConfigError
from tasks.runner.graph import graph_of

AT_ALL = "measure what depends on {room} (measure, or MEASURE=), or let arms differ"  # where no two arms do


def refuse_measure(checkout: Checkout, study: Study) -> None:
    """Raises ConfigError where an arm has no stage to be measured by."""
    stage, _ = study.stage_and_metric
    for arm in study.arms:
        graph = graph_of(checkout.root, checkout.compose(study.preset, study.assignments(arm, {}, study.seed)))
        if stage not in graph:
            near = get_close_matches(stage, graph, n=1, cutoff=0.6)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"measure: no stage {stage!r} with these parameters{meant} (stages: {', '.join(graph)})")


def refuse_duplicate_arms(checkout: Checkout, study: Study, name: str) -> None:
    """Raises ConfigError, a line each, for arms whose run is another's up to the measure, and that are not tuned otherwise."""
    base, groups = study.baseline, defaultdict[str, list[str]](list)
    for arm in [base, *(arm for arm in study.arms if arm != base)]:
        key = checkout.key_of(study, name, Job(arm, {}, study.seed, study.assignments(arm, {}, study.seed)), 1)
        groups[dumps([key, study.ranges(arm)], sort_keys=True)].append(arm)
    lines = []
    for first, *same in groups.values():
        if same:
            what = f"arms: {', '.join(same)}: up to {study.measure} the same run as {'the baseline, ' * (first == base)}{first}"
            leave = f"leave {'it' if len(same) == 1 else 'them'} out, or set something else"
            lines.append(f"{what}: {leave if len(groups) > 1 else AT_ALL.format(room=study.room)}")
    if lines:
        raise ConfigError("\n".join(lines))

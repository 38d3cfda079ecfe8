"""What no arm of a study could run with: found before any does, as a study has no preflight."""

from flows.arena.checkout import Checkout
from flows.arena.study import Study
from flows.forecast.unfilled import Unfilled
from flows.preflight.read import inputs
from lm.config import ConfigError
from tasks.about.contracts import contracts_of
from tasks.about.finding import Finding, findings_of
from tasks.about.sections import Sections
from tasks.runner.graph import graph_of, with_upstream


def refuse_inputs(checkout: Checkout, study: Study) -> None:
    """Raises ConfigError, a line each, for what no stage of an arm can read, or may ask of another: before any arm runs."""
    with Unfilled():  # rooms ask what models of the arms' shapes have
        found = dict.fromkeys(str(finding) for arm in study.arms for finding in unusable(checkout, study, arm))
    if found:
        raise ConfigError("\n".join(found))


def unusable(checkout: Checkout, study: Study, arm: str) -> list[Finding]:
    """What is wrong with the inputs of an arm's stages, and between their sections."""
    params = checkout.compose(study.preset, study.assignments(arm, {}, study.seed))
    graph, sections = graph_of(checkout.root, params), Sections(params)
    stages = list(dict.fromkeys(graph[address].name for address in with_upstream(graph, [study.stage_and_metric[0]])))
    return [
        *inputs(params, stages),
        *findings_of(*(lambda stage=stage: contracts_of(stage, sections) for stage in stages)),
    ]

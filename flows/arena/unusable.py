"""What no arm of a study could run with: found before any does, as a study has no preflight."""

from pathlib import Path

from flows.arena.study import Study
from flows.params.compose import compose
from flows.preflight.start import inputs
from lm.config import ConfigError
from tasks.about.contracts import contracts_of
from tasks.about.finding import Finding, findings_of
from tasks.about.sections import Sections
from tasks.runner.graph import graph_of, needed


def refuse_inputs(root: Path, study: Study) -> None:
    """Raises ConfigError, a line each, for what no stage of an arm can read, or may ask of another: before any arm runs."""
    if found := dict.fromkeys(str(finding) for arm in study.arms for finding in unusable(root, study, arm)):
        raise ConfigError("\n".join(found))


def unusable(root: Path, study: Study, arm: str) -> list[Finding]:
    """What is wrong with the inputs of an arm's stages, and between their sections."""
    params = compose(root, study.preset, study.assignments(arm, {}, study.seed))
    graph, sections = graph_of(root, params), Sections(params)
    stages = list(dict.fromkeys(graph[address].name for address in needed(graph, [study.stage_and_metric[0]])))
    return [
        *inputs(params, stages),
        *findings_of(*(lambda stage=stage: contracts_of(stage, sections) for stage in stages)),
    ]

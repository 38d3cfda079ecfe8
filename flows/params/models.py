"""The parameters that name models: what a stage begins with, and what is asked for."""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tasks.core.config import CHECKPOINT, MODELS
from tasks.runner.graph import value_of


def model_mistakes(stages: list[str], params: dict[str, Any]) -> list[str]:
    """One line for each name that is neither a stage's nor the checkpoint's, for a circle of models that begin with each other,
    and where the checkpoint is a model but lies elsewhere than data/checkpoint, from where a model of that name is read."""
    starts = {
        stage: params[stage]["model"]
        for stage in stages
        if isinstance(params.get(stage), dict) and isinstance(params[stage].get("model"), str)
    }
    scorers, learners = _named(stages, params, "scorer"), _named(stages, params, "learner")
    # a learner that is what its stage begins with is said of that
    learners = {stage: model for stage, model in learners.items() if model != starts.get(stage)}
    named = [(f"{stage}.model", model) for stage, model in starts.items()]
    named += [(f"{stage}.scorer", model) for stage, model in scorers.items() if model != CHECKPOINT]
    named += [(f"{stage}.student.model", model) for stage, model in learners.items()]
    found = []
    if MODELS in params:
        asked = params[MODELS]
        if not isinstance(asked, list) or not asked or not all(isinstance(name, str) for name in asked):
            found.append(f"params.yaml: {MODELS}: must be a list of models, one at least (got {asked!r})")
        else:
            named += [(MODELS, model) for model in asked]
            if len(set(asked)) < len(asked):
                found.append(f"params.yaml: {MODELS}: names a model twice (got {asked!r})")
    known = [*stages, CHECKPOINT]
    for where, model in named:
        if model not in known:
            near = get_close_matches(model, known, n=1, cutoff=0.5)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            found.append(f"params.yaml: {where}: no stage {model!r}{meant} (allowed: {', '.join(sorted(known))})")
    found += circles(starts)
    found += second_circles(starts, scorers, "scorer", "be scored by what comes of it")
    found += second_circles(starts, learners, "student.model", "begin with itself")
    users = [where for where, model in named if model == CHECKPOINT]
    folder = value_of(f"{CHECKPOINT}.folder", params)
    if users and folder is not None and Path(str(folder)) != Path("data", CHECKPOINT):
        found.append(
            f"params.yaml: {users[0]}: {CHECKPOINT} is the model in data/{CHECKPOINT}, and checkpoint.folder names {folder!r}: "
            f"put it into data/{CHECKPOINT}"
        )
    return found


def circles(starts: dict[str, str]) -> Iterator[str]:
    """A line for each circle, at the first of its stages."""
    told = set[str]()
    for stage in starts:
        way = [stage]
        while (model := starts.get(way[-1])) and model not in way:
            way.append(model)
        if model == stage and stage not in told:
            told.update(way)
            yield f"params.yaml: {stage}.model: {' <- '.join([*way, stage])}: a model cannot begin with itself"


def second_circles(starts: dict[str, str], seconds: dict[str, str], key: str, what: str) -> Iterator[str]:
    """A line for each stage whose second model, by the key that names it, is its own or comes of it; what: that cannot be."""
    for stage, second in seconds.items():
        way = [second]
        while (model := starts.get(way[-1])) and model not in way:
            way.append(model)
        if stage in way:
            ways = " <- ".join(reversed(way[: way.index(stage) + 1]))
            yield f"params.yaml: {stage}.{key}: {ways}: a model cannot {what}"


def _named(stages: list[str], params: dict[str, Any], key: str) -> dict[str, str]:
    """The models that stages name by this key."""
    sections = {stage: params[stage] for stage in stages if isinstance(params.get(stage), dict)}
    return {stage: section[key] for stage, section in sections.items() if isinstance(section.get(key), str)}

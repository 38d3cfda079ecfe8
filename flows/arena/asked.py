"""A study as it is asked for on the command line: a file, or a room and its methods."""

import argparse
import math
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from flows.arena.defaults import defaults
from flows.arena.names import named
from flows.arena.runs import watched
from flows.arena.study import METHOD, Range, Study, read_study
from flows.params.compose import compose
from lm.config import ConfigError, mistakes
from tasks.core.config import SHARED, load
from tasks.runner.graph import graph_of, value_of, with_upstream
from tasks.runner.rooms import config_of, room_of

# A rate is tried over this range beside what a method has by default, on a log scale: AdamW's best of four at a laptop's
# size was 3 times its default, Muon's a third.
AROUND = 8.0


def study_of(root: Path, asked: argparse.Namespace) -> tuple[str, Study]:
    """(name, study): of the file, or made of room and methods; what else is given takes the place of the study's own. Raises
    ConfigError."""
    if asked.study:
        if asked.room or asked.methods:
            raise ConfigError("STUDY: a file says its room and its methods: leave ROOM and METHODS out")
        path = root / asked.study
        own = read_study(path)
        study = changed(own, asked, str(asked.study))
        return path.stem if study == own else named(path.stem, study), study
    if not asked.room or not asked.methods:
        there = ", ".join(sorted(path.name for path in (root / "studies").glob("*.yaml"))) or "none"
        raise ConfigError(
            'ROOM and METHODS are needed, as in ROOM=pretrain.optimizer METHODS="adamw muon", or STUDY, a file of studies/ '
            f"(there are: {there})"
        )
    known = methods(asked.room)
    for what, name in [
        *(("METHODS", name) for name in asked.methods),
        *[("CONTROL", asked.control)] * bool(asked.control),
    ]:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.4)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{what}: {asked.room} has no {name!r}{meant} (methods: {', '.join(known)})")
    if len(set(asked.methods)) < 2:
        raise ConfigError(
            f"METHODS: {' '.join(asked.methods)!r} is one method: name the baseline first, then what is to beat it"
        )
    names = list(dict.fromkeys([*asked.methods, *[asked.control] * bool(asked.control)]))
    study = changed(made(values_of(root, asked, {name: known[name] for name in names}), "study"), asked, "study")
    return named(f"{asked.room}-{'-'.join(dict.fromkeys(asked.methods))}".replace(".", "-"), study), study


def values_of(root: Path, asked: argparse.Namespace, arms: dict[str, type[BaseModel]]) -> dict[str, Any]:
    """What a study of a room and its methods takes by itself. Raises ConfigError for parameters that cannot be used."""
    preset = asked.preset or Study.model_fields["preset"].default
    whole = graph_of(root, compose(root, preset, []))
    how = defaults().measured(
        asked.room, {whole[each].name for each in with_upstream(whole, [defaults().measure.partition(".")[0]])}
    )
    sets = [*how.set, *(() if asked.preset else how.small)]
    params = compose(root, preset, [*sets, *asked.set])
    return {
        "room": asked.room,
        "baseline": next(iter(arms)),
        "arms": {name: {METHOD: {"name": name, **kept(params, asked.room, method)}} for name, method in arms.items()},
        "tune_of": {name: ranges_of(root, params, asked.room, method) for name, method in arms.items()},
        "budget": {"tokens": defaults().spent if asked.preset or how.spent is None else how.spent},
        "measure": how.measure,
        "better": defaults().direction(how.measure.partition(".")[2]),
        "set": sets,
    }


def kept(params: dict[str, Any], room: str, method: type[BaseModel]) -> dict[str, Any]:
    """What every arm has as these params have it for the method that they chose, where the arm's method takes it."""
    chosen = value_of(room, params)
    return {key: chosen[key] for key in defaults().kept if key in method.model_fields and key in (chosen or {})}


def made(values: dict[str, Any], where: str) -> Study:
    """The study of these values. Raises ConfigError."""
    try:
        return Study.model_validate(values, strict=False)
    except ValidationError as error:
        raise ConfigError(f"{where}: {mistakes(error)}") from None


def changed(study: Study, asked: argparse.Namespace, where: str) -> Study:
    """The study with what was asked for beside it."""
    values = study.model_dump()
    for name in ("preset", "target", "seeds", "trials", "measure", "better", "control"):
        if getattr(asked, name) is not None:
            values[name] = getattr(asked, name)
    if asked.measure is not None and asked.better is None:
        values["better"] = direction(asked.measure, study)
    if asked.budget:
        kind, equals, amount = asked.budget.partition("=")
        if not equals:
            raise ConfigError(
                f"BUDGET: {asked.budget!r} must read tokens=300000, flop=1e12, seconds=20 or bytes=2000000"
            )
        try:
            number = float(amount)
        except ValueError:
            raise ConfigError(f"BUDGET: {amount!r} is no number") from None
        if not math.isfinite(number):
            raise ConfigError(f"BUDGET: {amount!r} is not finite")
        values["budget"] = {kind: int(number) if kind in ("tokens", "bytes") else number}
    values["set"] = [*study.set, *asked.set]
    return made(values, where)


def direction(measure: str, study: Study) -> str:
    """The better direction of a measure that takes the place of a study's own. Raises ConfigError where that is not known."""
    metric = measure.partition(".")[2]
    found = study.better if measure == study.measure else defaults().direction(metric)
    if metric and found is None:
        raise ConfigError(f"BETTER: lower or higher? Of {metric!r} it is not known which is better")
    return found or study.better


def methods(room: str) -> dict[str, type[BaseModel]]:
    """The methods that a parameter can have, by name, as in pretrain.optimizer. Raises ConfigError for a parameter that
    there is not, or that holds no method."""
    stage, *keys = room.split(".")
    if not stage.isidentifier() or room_of(stage) is None:
        raise ConfigError(f"ROOM: no stage {stage!r}: a room is a parameter of a stage, as pretrain.optimizer is")
    kind: Any = config_of(stage)
    for key in keys:
        fields = getattr(kind, "model_fields", {})
        if key not in fields:
            near = get_close_matches(key, fields, n=1, cutoff=0.4)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"ROOM: {stage} has no {key!r}{meant} (it has: {', '.join(fields)})")
        kind = fields[key].annotation
    kinds = [each for each in (get_args(kind) or (kind,)) if isinstance(each, type) and issubclass(each, BaseModel)]
    found = {each.model_fields["name"].default: each for each in kinds if "name" in each.model_fields}
    if not found or keys[0] in SHARED:
        raise ConfigError(f"ROOM: {room} is no choice of methods, as pretrain.optimizer is")
    return found


def ranges_of(root: Path, params: dict[str, Any], room: str, method: type[BaseModel]) -> dict[str, Range]:
    """What is tuned of a method: its rates, and that of the training which the room decides where it has none of that
    training, AROUND times below and above what they are by default or in these params; nothing behind that training, as of
    a quantizer. Raises ConfigError."""
    stage, trained, first = room.partition(".")[0], watched(room), defaults().trained
    if stage != trained and stage not in with_upstream(graph_of(root, params), [first]):
        return {}
    rate, default = rates_of(params, trained)
    own = {name: field.default for name, field in method.model_fields.items() if name == "lr" or name.endswith("_lr")}
    # defaults are rates of a first training; how much lower those of a later one are is what its section says
    lower = 1.0 if trained == first else rate / default
    found = {f"{room}.{name}": around(each * lower) for name, each in own.items()}
    # a rate of a stage before it, as of a filter that learns, is none of the training that the other arms are tuned in
    return found if own and stage == trained else {**found, f"{trained}.{defaults().rate}": around(rate)}


def rates_of(params: dict[str, Any], stage: str) -> tuple[float, float]:
    """(rate, what it is by default of that method) of a stage that trains. Raises ConfigError."""
    *above, last = defaults().rate.split(".")
    found: Any = load(stage, config_of(stage), params)
    for key in above:
        found = getattr(found, key)
    return getattr(found, last), type(found).model_fields[last].default


def around(rate: float) -> Range:
    """The range in which a rate is tried."""
    return rate / AROUND, rate * AROUND

"""A study as it is asked for on the command line: a file, or a room and its methods."""

import argparse
import math
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from flows.arena.defaults import defaults
from flows.arena.study import METHOD, Range, Study, read_study
from lm.config import ConfigError, mistakes
from tasks.runner.rooms import config_of

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
        return path.stem, changed(read_study(path), asked, str(asked.study))
    if not asked.room or not asked.methods:
        there = ", ".join(sorted(path.name for path in (root / "studies").glob("*.yaml"))) or "none"
        raise ConfigError(
            'ROOM and METHODS are needed, as in ROOM=pretrain.optimizer METHODS="adamw muon", or STUDY, a file of studies/ '
            f"(there are: {there})"
        )
    names = asked.methods
    known = methods(asked.room)
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.4)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"METHODS: {asked.room} has no {name!r}{meant} (methods: {', '.join(known)})")
    if len(set(names)) < 2:
        raise ConfigError(
            f"METHODS: {' '.join(names)!r} is one method: name the baseline first, then what is to beat it"
        )
    values: dict[str, Any] = {
        "room": asked.room,
        "baseline": names[0],
        "arms": {name: {METHOD: {"name": name}} for name in names},
        "tune_of": {name: ranges_of(asked.room, known[name]) for name in names},
        "budget": {"tokens": 300_000},
    }
    return f"{asked.room}-{'-'.join(names)}".replace(".", "-")[:60], changed(made(values, "study"), asked, "study")


def made(values: dict[str, Any], where: str) -> Study:
    """The study of these values. Raises ConfigError."""
    try:
        return Study.model_validate(values, strict=False)
    except ValidationError as error:
        raise ConfigError(f"{where}: {mistakes(error)}") from None


def changed(study: Study, asked: argparse.Namespace, where: str) -> Study:
    """The study with what was asked for beside it."""
    values = study.model_dump()
    for name in ("preset", "target", "seeds", "trials"):
        if getattr(asked, name) is not None:
            values[name] = getattr(asked, name)
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


def methods(room: str) -> dict[str, type[BaseModel]]:
    """The methods that a parameter can have, by name, as in pretrain.optimizer. Raises ConfigError for a parameter that
    there is not, or that holds no method."""
    stage, *keys = room.split(".")
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
    if not found:
        raise ConfigError(f"ROOM: {room} is no choice of methods, as pretrain.optimizer is")
    return found


def ranges_of(room: str, method: type[BaseModel]) -> dict[str, Range]:
    """What is tuned of a method: its rates, and the optimizer's where it has none; AROUND times below and above the
    default."""
    own = {name: field.default for name, field in method.model_fields.items() if name == "lr" or name.endswith("_lr")}
    if own:
        return {f"{room}.{name}": (rate / AROUND, rate * AROUND) for name, rate in own.items()}
    return {defaults().rate: (0.005 / AROUND, 0.005 * AROUND)}

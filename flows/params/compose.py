"""From a preset and overrides to params.yaml: the one place where parameters are composed, and checked."""

import sys
from difflib import get_close_matches
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from flows.params.gates import gate_mistakes
from flows.params.models import model_mistakes
from flows.params.outside import reach_inputs
from flows.params.paths import path_mistakes
from flows.params.text import edit_yaml
from flows.params.versions import versions
from lm.files import write_text
from tasks.core.config import GATES, SHARED, ConfigError, load, read_params, unknown_sections
from tasks.core.libraries import SECTION, libraries_in
from tasks.core.yaml import YAMLError, dump_yaml, parse_yaml, read_yaml
from tasks.report.words import ABSENT
from tasks.runner.graph import graph_of
from tasks.runner.names import flatten
from tasks.runner.rooms import config_of, part_of

CURRENT = "current"
BASE = "laptop"
LISTED = 20  # values that a run says it has changed; a preset changes dozens


def presets(root: Path) -> list[str]:
    """The names of the presets, sorted."""
    return sorted(path.stem for path in (root / "presets").glob("*.yaml"))


def merge_params(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """The base with the values of the change. A mapping that names another method replaces the one before it whole, since
    the other keys belong to the method; other mappings merge key by key."""
    result = dict(base)
    for key, value in change.items():
        before = result.get(key)
        if isinstance(value, dict) and isinstance(before, dict) and (before | value).get("name") == before.get("name"):
            result[key] = merge_params(before, value)
        else:
            result[key] = value
    return result


def override(params: dict[str, Any], assignment: str) -> dict[str, Any]:
    """The params with one value set, given as `rl.steps=50`; the value is YAML. Raises ConfigError naming SET."""
    key, equals, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"SET: {assignment!r} must read section.key=value, as in rl.steps=50")
    if parts[0] == SECTION:
        raise ConfigError(f"SET: {key}: says what is installed; install another version instead")
    if parts[0] not in (*params, GATES):
        near = get_close_matches(parts[0], params, n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"SET: {key}: no section {parts[0]!r}{meant} (sections: {', '.join(params)})")
    try:
        change: Any = parse_yaml(text)
    except YAMLError:
        raise ConfigError(f"SET: {key}: {text!r} is no YAML value") from None
    if isinstance(params, dict) and len(parts) > 1:
        for part in reversed(parts[1:]):
            change = {part: change}
    return merge_params(params, {parts[0]: change})


def compose(root: Path, preset: str, overrides: list[str]) -> dict[str, Any]:
    """All parameters: those of the preset over the base, or of params.yaml, with the overrides applied.

    What a room makes of its section (its compose.py) is in it, and in the section `libraries` what is installed of the
    libraries that a stage declares. Raises ConfigError.
    """
    return Composer(root)(preset, overrides)


class Composer:
    """Composes parameters of a checkout as `compose` does, as often as it is called: which rooms have a part in it, and which
    versions are installed, is found out once. For a command that ends, in which neither changes."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, preset: str, overrides: list[str]) -> dict[str, Any]:
        """Raises ConfigError."""
        params = self._preset(preset)
        for assignment in overrides:
            params = override(params, assignment)
        for stage, room in self._rooms.items():
            if isinstance(params.get(stage), dict) and hasattr(room, "composed"):
                params = {**params, stage: room.composed(params[stage])}
        return {**params, SECTION: dict(self._versions)} if self._versions else params

    @cached_property
    def _rooms(self) -> dict[str, ModuleType]:
        return composers(self._root)

    @cached_property
    def _versions(self) -> dict[str, str | None]:
        return versions(libraries(self._root))

    def _preset(self, preset: str) -> dict[str, Any]:
        if preset == CURRENT:
            return with_missing_sections(self._root, read_params(self._root / "params.yaml"))
        known = presets(self._root)
        if preset not in known:
            near = get_close_matches(preset, known, n=1, cutoff=0.5)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"PRESET: no preset {preset!r}{meant} (presets/: {', '.join(known)})")
        base = read_params(self._root / "presets" / f"{BASE}.yaml")
        if preset == BASE:
            return base
        change = read_params(self._root / "presets" / f"{preset}.yaml")
        return merge_params(self._under(base, change), change)

    def _under(self, base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
        """The base for a preset, as the rooms of its sections have it."""
        found = dict(base)
        for stage, room in self._rooms.items():
            if isinstance(base.get(stage), dict) and hasattr(room, "under"):
                found[stage] = room.under(base, change)
        return found


def with_missing_sections(root: Path, params: dict[str, Any]) -> dict[str, Any]:
    """The params with the base's section, where it has one, of each stage of dvc.yaml that they lack, and of those that stages
    share: of one that is new. It stands behind the section that it follows in the base."""
    path, names = root / "presets" / f"{BASE}.yaml", list(params)
    known = [*read_yaml(root / "dvc.yaml")["stages"], *SHARED]
    base = read_params(path) if any(name not in params for name in known) and path.exists() else {}
    for before, name in pairwise(["", *base]):
        if name in known and name not in names:
            names.insert(names.index(before) + 1 if before in names else len(names), name)
    return {name: params.get(name, base.get(name)) for name in names}


def composers(root: Path) -> dict[str, ModuleType]:
    """The compose.py of each stage whose room has one."""
    stages = read_yaml(root / "dvc.yaml")["stages"]
    return {stage: room for stage in stages if (room := part_of(stage, "compose"))}


def libraries(root: Path) -> list[str]:
    """Names of the libraries that any stage of dvc.yaml declares, sorted."""
    bodies = [body.get("do", body) for body in read_yaml(root / "dvc.yaml")["stages"].values()]
    return sorted({name for body in bodies for name in libraries_in(body.get("params", []))})


def check(root: Path, params: dict[str, Any]) -> None:
    """Raises ConfigError with one line for every mistake in any section."""
    names = list(dict.fromkeys(read_yaml(root / "dvc.yaml")["stages"]))
    mistakes = unknown_sections(params, names) + path_mistakes(root, params) + model_mistakes(names, params)
    mistakes += gate_mistakes(params)
    for name in names:
        try:
            load(name, config_of(name), params)
        except ConfigError as error:
            mistakes += str(error).splitlines()
    if mistakes:
        raise ConfigError("\n".join(dict.fromkeys(mistakes)))


def write(root: Path, params: dict[str, Any]) -> list[str]:
    """Write params.yaml, whole, if it would change. Returns a line for each value that did, as in
    `params.yaml: quantize.method.group 16 -> 32`; beyond LISTED how many more; one line alone where there was no such file."""
    path = root / "params.yaml"
    if not path.exists():
        text, said = dump_yaml(params), ["params.yaml: written"]
    else:
        before = read_params(path)
        if before == params:
            return []
        text = edit_yaml(path.read_text(), params)
        said = [f"params.yaml: {key} {was} -> {now}" for key, was, now in changes(before, params)]
    write_text(path, text)
    return said if len(said) <= LISTED + 1 else [*said[:LISTED], f"params.yaml: and {len(said) - LISTED} more values"]


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(key, was, now) of each parameter that differs, in the order of the new ones; ABSENT where there is none."""
    old, new = (flatten(params) if params else {} for params in (before, after))
    return [
        (k, old.get(k, ABSENT), new.get(k, ABSENT)) for k in dict.fromkeys([*new, *old]) if old.get(k) != new.get(k)
    ]


def check_targets(root: Path, params: dict[str, Any], targets: list[str]) -> None:
    """Raises ConfigError for a target that is no stage with these params; the name of a repeated one stands for all of it."""
    addresses = list(graph_of(root, params))
    names = [*addresses, *dict.fromkeys(a.partition("@")[0] for a in addresses if "@" in a)]
    for target in targets:
        if target not in names:
            near = get_close_matches(target, names, n=1, cutoff=0.5)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"TARGETS: no stage {target!r}{meant} (stages: {', '.join(names)})")


def main() -> int:
    """What precedes a plain `dvc repro`: params.yaml says which versions run, else DVC would take those of before for these."""
    root = Path.cwd()
    try:
        params = compose(root, CURRENT, [])
        reach_inputs(root, params)
        for line in write(root, params):
            print(line, flush=True)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

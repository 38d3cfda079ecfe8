"""What a run is called in Prefect and MLflow: the preset that it is nearest to, and in what it differs."""

from pathlib import Path
from typing import Any

from flows.params.compose import BASE, CURRENT, changes, compose, presets
from tasks.core.config import ConfigError
from tasks.core.libraries import SECTION
from tasks.report.words import ABSENT

NAMED = 3  # values that a name has room for
LONGEST = 40  # letters of a value


def run_name(root: Path, params: dict[str, Any], preset: str = CURRENT) -> tuple[str, str]:
    """(preset, name), as in ("laptop", "laptop quantize.group=32"): of the preset that was asked for, else of the one from
    which these params differ in the fewest values, `laptop` among equals. Both are "pipeline" where there is no preset."""
    known = [BASE, *(name for name in presets(root) if name != BASE)] if preset == CURRENT else [preset]
    found = []
    for name in known:
        try:
            every = changes(compose(root, name, []), params)
        except ConfigError:
            continue
        # values that went with another method are not named beside it
        own = [(key, now) for key, _, now in every if now != ABSENT and not key.startswith(f"{SECTION}.")]
        found.append((name, own))
    if not found:
        return "pipeline", "pipeline"
    name, different = min(found, key=lambda each: len(each[1]))
    short = [shorten_key(key, [other for other, _ in different]) for key, _ in different]
    words = [f"{key}={now[:LONGEST]}" for key, (_, now) in zip(short, different, strict=True)]
    more = [f"and {len(words) - NAMED} more"] if len(words) > NAMED else []
    return name, " ".join([name, *words[:NAMED], *more])


def shorten_key(key: str, keys: list[str]) -> str:
    """`quantize.group` for `quantize.method.group`, where no other of the keys would be called so; `quantize.method` for its
    `name`."""
    parts = key.split(".")
    if len(parts) > 2 and parts[-1] == "name":  # the method itself
        return ".".join(parts[:-1])
    if len(parts) < 3 or parts[-1].isdecimal():
        return key
    alike = [other for other in keys if (other.split(".")[0], other.split(".")[-1]) == (parts[0], parts[-1])]
    return f"{parts[0]}.{parts[-1]}" if len(alike) == 1 else key

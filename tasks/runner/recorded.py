"""What a stage read, written as an output beside its own: data/keys/<stage>.json. DVC keeps its digest with those of the other
outputs, so an entry of dvc.lock or of DVC's run cache says by itself whether what it records is what its bytes were made of.

Of the standard library alone, and tasks/core/unseen.py, which is so too: the process of every DVC command reads this.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.core.unseen import UNSEEN

FOLDER = "data/keys"


def path_of(address: str) -> str:
    """Path of the file in which a stage says what it read."""
    return f"{FOLDER}/{address}.json"


def decides(cmd: str, md5s: dict[str, str], params: dict[str, Any]) -> dict[str, Any]:
    """Command, md5 of each dependency and declared params, in which numbers that are equal are written alike: DVC compares
    with Python's ==, for which 1, 1.0 and true are one value."""
    return {"cmd": cmd, "deps": md5s, "params": _plain(params)}


def locked_decisions(entry: dict[str, Any]) -> dict[str, Any]:
    """What `decides` gives, out of a stage's entry of dvc.lock or of the run cache."""
    md5s = {dep["path"]: dep.get("md5", "") for dep in entry.get("deps", [])}
    return decides(entry["cmd"], md5s, entry.get("params", {}).get("params.yaml", {}))


def key_of(said: dict[str, Any]) -> str:
    """Stage key: sha256 of what `decides` gives."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def text_of(said: dict[str, Any]) -> str:
    """Content of the file in which a stage says what it read."""
    return json.dumps(said, sort_keys=True, indent=1) + "\n"


def claim_of(entry: dict[str, Any]) -> tuple[str, str] | None:
    """(path, md5) of the file that says what the outputs of an entry were made of; None where the stage wrote none."""
    outs = {out["path"]: out.get("md5", "") for out in entry.get("outs", [])}
    return next(((path, md5) for path, md5 in outs.items() if path.startswith(f"{FOLDER}/")), None)


def is_true(entry: dict[str, Any]) -> bool:
    """Whether an entry records what its stage read; one without such a file cannot be doubted."""
    claim = claim_of(entry)
    return (
        claim is None
        or claim[1] == hashlib.md5(text_of(locked_decisions(entry)).encode(), usedforsecurity=False).hexdigest()
    )


def forget_run(path: Path) -> None:
    """Remove an entry of DVC's run cache, and its folder with the last one: DVC fails on an empty one."""
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()


def differences(read: dict[str, Any], recorded: dict[str, Any]) -> list[str]:
    """What a stage read, where another is recorded: `rl.steps: 40, not 50`, `another data/sft`."""
    found = ["another command"] if read["cmd"] != recorded["cmd"] else []
    before, after = _leaves(read["params"], ""), _leaves(recorded["params"], "")
    for name in sorted({*before, *after}):
        if before.get(name, UNSEEN) != after.get(name, UNSEEN):
            shown = [json.dumps(values[name]) if name in values else "not there" for values in (before, after)]
            found.append(f"{name}: {shown[0]}, not {shown[1]}")
    deps = sorted({*read["deps"], *recorded["deps"]})
    return found + [f"another {path}" for path in deps if read["deps"].get(path) != recorded["deps"].get(path)]


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _leaves(value: Any, name: str) -> dict[str, Any]:
    pieces = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    below = {k: v for key, part in pieces for k, v in _leaves(part, f"{name}.{key}" if name else str(key)).items()}
    return below or {name: value}

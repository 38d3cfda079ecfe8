"""What a run took (seconds, memory, tokens a second) and what made it, kept by the stage key of the bytes that it left.

data/timings/<stage>.json and <stage>.record.json are of what lies in data/<stage>. DVC may bring other bytes of that stage back
from its cache, so data/timings/by_key/ keeps both for every key that ran here.
"""

import json
from pathlib import Path
from typing import Any

from lm.files import write_json

FOLDER = Path("data") / "timings"
STORE = FOLDER / "by_key"


def paths(address: str) -> tuple[Path, Path]:
    """Where the figures of the run and its record are, seen from the project."""
    return FOLDER / f"{address}.json", FOLDER / f"{address}.record.json"


def write(root: Path, address: str, facts: dict[str, float], record: dict[str, Any]) -> None:
    """Leave both for what lies in data/<stage>, and keep them under the record's key. The record comes first: a kill in between
    leaves a key that is not the lock's, so that nobody takes the old figures for the new run's."""
    _keep(root, address, facts, record)
    _put(root, address, facts, record)


def save_timings(root: Path, address: str) -> None:
    """Keep under its key what another machine's run left here."""
    facts, record = (read_object(root / path) for path in paths(address))
    if record.get("key"):
        _keep(root, address, facts, record)


def restore_timings(root: Path, address: str, key: str) -> None:
    """Have in place what belongs to this key; nothing where no run here had it."""
    facts, record = (root / path for path in paths(address))
    if read_object(record).get("key") == key and facts.exists():
        return
    if kept := read_object(_kept(root, address, key)):
        _put(root, address, kept["facts"], kept["record"])
    else:
        facts.unlink(missing_ok=True)
        record.unlink(missing_ok=True)


def facts_of(root: Path, address: str, key: str) -> dict[str, float]:
    """What the run took that made the bytes of this key; empty where none is known."""
    facts, record = paths(address)
    in_place = read_object(root / record).get("key") == key
    return read_object(root / facts) if in_place else read_object(_kept(root, address, key)).get("facts", {})


def record_of(root: Path, address: str, key: str) -> dict[str, Any]:
    """The record of the run that made the bytes of this key; empty where none is known."""
    in_place = read_object(root / paths(address)[1])
    return in_place if in_place.get("key") == key else read_object(_kept(root, address, key)).get("record", {})


def _put(root: Path, address: str, facts: dict[str, float], record: dict[str, Any]) -> None:
    facts_path, record_path = paths(address)
    write_json(root / record_path, record)
    write_json(root / facts_path, facts)


def _keep(root: Path, address: str, facts: dict[str, float], record: dict[str, Any]) -> None:
    both: dict[str, Any] = {"facts": facts, "record": record}
    write_json(_kept(root, address, record["key"]), both, shared=True)  # variants of one checkout keep theirs here, too


def _kept(root: Path, address: str, key: str) -> Path:
    return root / STORE / address / f"{key}.json"


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or one that was cut off or spoiled: facts of a run are no reason to fail."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

"""A dvc.lock that a kill or a full disk has cut off, since DVC rewrites it in place, is made readable again; and what it says
of a stage that read something else is taken out."""

import re
from pathlib import Path
from typing import Any

from flows.staleness.false_entries import take_out
from lm.files import write_text
from tasks.core.config import ConfigError
from tasks.core.yaml import YAMLError, parse_yaml

STAGE = re.compile(r"^  \S", re.MULTILINE)
DIGEST = re.compile(r"[0-9a-f]{32}(\.dir)?")
CONFLICT = "<<<<<<< "


def heal_lock(root: Path) -> str:
    """Have a dvc.lock that is whole and true. Returns what was done, a sentence a line, "" where it was so.

    Raises ConfigError for a merge conflict, which is not ours to decide.
    """
    return "\n".join(filter(None, [cut_back(root), *take_out(root)]))


def cut_back(root: Path) -> str:
    """Cut dvc.lock back to the stages that are whole in it. Returns what was done in a sentence, "" where it was whole.

    No work is lost: DVC's run cache has the entry of every stage that ran here, and brings its output back.
    Raises ConfigError for a merge conflict, which is not ours to decide.
    """
    path = root / "dvc.lock"
    if not path.exists():
        return ""
    text = path.read_text(errors="replace")
    if any(line.startswith(CONFLICT) for line in text.splitlines()):
        raise ConfigError("dvc.lock: has a merge conflict; take one side whole (git checkout --ours dvc.lock)")
    if is_whole(text):
        return ""
    starts = [found.start() for found in STAGE.finditer(text)]
    kept = next((text[:start] for start in reversed(starts) if is_whole(text[:start])), None)
    if kept is None:
        path.unlink()
        return "dvc.lock: not one stage in it could be read, so it was removed; DVC's cache has what ran here"
    write_text(path, kept)
    left = len(parse_yaml(kept)["stages"])
    return f"dvc.lock: was cut off; the {left} stages before that are kept, DVC's cache has the others"


def is_whole(text: str) -> bool:
    """Whether every line is and every stage has its command and all that DVC writes of every output, as its schema asks."""
    try:
        stages = parse_yaml(text)["stages"]
        lines_are_whole = text.endswith("\n") and bool(stages)
        return lines_are_whole and all(entry["cmd"] and _are_whole(entry["outs"]) for entry in stages.values())
    except (YAMLError, KeyError, TypeError, AttributeError):
        return False


def _are_whole(outs: list[dict[str, Any]]) -> bool:
    return bool(outs) and all(
        DIGEST.fullmatch(out["md5"])
        and isinstance(out["size"], int)
        and (not out["md5"].endswith(".dir") or isinstance(out["nfiles"], int))
        for out in outs
    )

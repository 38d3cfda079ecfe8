"""Which checkpoints a stage may go on from: those of this kind of machine, since on another the steps give other bytes.

Scratch of another kind is set aside, not deleted, and taken up again where its kind is back, or where it is asked for.
"""

import hashlib
import json
import shutil
from pathlib import Path

from lm.files import write_json
from tasks.runner.machine import machine_differences
from tasks.runner.say import say
from tasks.runner.settings import RESUME

MACHINE = "machine.json"
# In what a run may change on its way, as the README promises: its record then says so
MAY_CHANGE = {"parallel"}
NAMED, LONGEST = 3, 80  # differences that a line names, and characters of each


def take_up(address: str, folder: Path, here: dict[str, str]) -> dict[str, str]:
    """Make `folder`, .scratch/<stage>/<key>, what the stage is to go on from, and say in a line where that is not what was left
    there. here: this kind of machine. Returns, for the stage's record, where it goes on from steps of another kind.

    Raises ConfigError for a TOKENMILL_RESUME that is not `anyway`.
    """
    anyway = bool(RESUME.read())
    wanted = _wanted(folder, here, anyway)
    if wanted != folder:
        _set_aside(folder)
        wanted.replace(folder)
    there, went_on = _read(folder)
    step = steps_of(folder)
    if step and (lines := machine_differences(there, here)):
        if anyway or not _decides(there, here):
            went_on.append(f"at step {step}: {'; '.join(lines)}")
            say(f"{address}: goes on at step {step} in another way than it began: {_short(lines)}")
        else:
            kept = _set_aside(folder)
            say(
                f"{address}: the checkpoint of step {step} is of another kind of machine, which ends in other bytes "
                f"({_short(lines)}): starts anew; {RESUME.name}=anyway goes on from it, and it stays in {kept} until then"
            )
            went_on = []
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MACHINE, {"machine": here, "went_on": went_on})
    return {"went on": "; ".join(went_on)} if went_on else {}


def aside(folder: Path) -> list[Path]:
    """The scratch of other kinds of machine that was set aside from this one."""
    return sorted(folder.parent.glob(f"{folder.name}.*"))


def steps_of(folder: Path) -> int:
    """Steps that the newest checkpoint in a stage's scratch has made; 0 where there is none."""
    names = [path.stem.removeprefix("step-") for path in (folder / "checkpoints").glob("step-*.safetensors")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _wanted(folder: Path, here: dict[str, str], anyway: bool) -> Path:
    """The scratch that has come furthest: of any kind of machine, or of this one; the folder itself where none has."""
    places = [folder, *aside(folder)]
    usable = [place for place in places if steps_of(place) and (anyway or not _decides(_read(place)[0], here))]
    return max(usable, key=steps_of, default=folder)  # of two the folder, which is first


def _decides(there: dict[str, str], here: dict[str, str]) -> bool:
    """Whether two kinds of machine are others, beyond what may change."""
    return bool({n for n in {*there, *here} if there.get(n) != here.get(n)} - MAY_CHANGE)


def _set_aside(folder: Path) -> Path:
    """Move the scratch out of the way, under a name that its kind of machine and its steps decide; without steps, delete it."""
    steps = steps_of(folder)
    digest = hashlib.sha256(json.dumps(_read(folder)[0], sort_keys=True).encode()).hexdigest()[:8]
    kept = folder.with_name(f"{folder.name}.{digest}-{steps}")
    shutil.rmtree(kept, ignore_errors=True)  # as many steps on the same kind of machine: the same bytes
    if steps:
        folder.replace(kept)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return kept


def _read(folder: Path) -> tuple[dict[str, str], list[str]]:
    """(kind of machine, where it went on from steps of others) of a stage's scratch; empty where that is not known."""
    try:
        found = json.loads((folder / MACHINE).read_text())
        return found["machine"], found["went_on"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}, []


def _short(lines: list[str]) -> str:
    named = [line if len(line) <= LONGEST else f"{line[:LONGEST]}..." for line in lines[:NAMED]]
    return "; ".join(named + ([f"and {len(lines) - NAMED} more"] if len(lines) > NAMED else []))
